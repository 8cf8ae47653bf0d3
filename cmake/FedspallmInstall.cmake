# SPDX-License-Identifier: Apache-2.0
# What `cmake --install` puts where. The tree may be moved as a whole: nothing in it holds its own path.
#   bin/fedspallm  share/man/man1/fedspallm.1  share/fedspallm/{jobs,configs,tools,modulefiles}
include(GNUInstallDirs)

# Libraries outside the system's folders (a cluster's modules) are found as they were when the program was linked.
set_target_properties(fedspallm PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS fedspallm RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

configure_file(docs/man/fedspallm.1.in fedspallm.1 @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/fedspallm.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

set(shared share/fedspallm) # not CMAKE_INSTALL_DATADIR: the module file counts the folders up to the prefix
configure_file(jobs/modulefiles/fedspallm.in modulefile @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/modulefile DESTINATION ${shared}/modulefiles/fedspallm RENAME ${PROJECT_VERSION})
install(DIRECTORY jobs/ DESTINATION ${shared}/jobs USE_SOURCE_PERMISSIONS
        PATTERN quickstart.sh EXCLUDE PATTERN modulefiles EXCLUDE)
install(FILES configs/cluster.toml configs/smallest.toml DESTINATION ${shared}/configs)
install(FILES tools/mpi-environment.sh tools/common.py DESTINATION ${shared}/tools)
install(PROGRAMS tools/report.py DESTINATION ${shared}/tools)
install(DIRECTORY tools/report_parts DESTINATION ${shared}/tools PATTERN __pycache__ EXCLUDE)
install(FILES LICENSE CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
