# SPDX-License-Identifier: Apache-2.0
# cmake -DSOURCE=FOLDER -DHEADER=FILE -P WriteRevision.cmake: writes the header with the commit that SOURCE is at, with
# -dirty after it where files differ from it; "unknown" where SOURCE is not the top of a git checkout (an archive
# unpacked within another project's). A header that would not change keeps its time.
find_package(Git QUIET)
set(revision "")
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} rev-parse --show-prefix WORKING_DIRECTORY ${SOURCE}
                  OUTPUT_VARIABLE prefix RESULT_VARIABLE outside OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(outside EQUAL 0 AND prefix STREQUAL "")
    execute_process(COMMAND ${GIT_EXECUTABLE} describe --always --dirty --abbrev=12 --exclude=*
                    WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(revision STREQUAL "")
  set(revision "unknown")
endif()

file(CONFIGURE OUTPUT ${HEADER} @ONLY CONTENT [[
// SPDX-License-Identifier: Apache-2.0
// Purpose: the git revision, written by cmake/WriteRevision.cmake at each build.
#pragma once

namespace fedspallm::app {
inline constexpr const char* kGitRevision = "@revision@";
}
]])
