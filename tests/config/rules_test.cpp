// SPDX-License-Identifier: Apache-2.0
// Every rule of the configuration as a row: lines that break it and what the message must contain.
#include <gmock/gmock.h>

#include "valid.hpp"
#include <algorithm>

namespace fedspallm::config::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Row {
  const char* lines;  // after the smallest valid file, so the first of them is line 8
  std::vector<std::string> fragments;
};

void expect_refused(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const std::string message = refusal_with(row.lines);
    EXPECT_THAT(message, HasSubstr("/somewhere/configs/run.toml")) << row.lines;
    EXPECT_EQ(message.find('\n'), std::string::npos) << "more than one problem: " << message;
    for (const std::string& fragment : row.fragments) EXPECT_THAT(message, HasSubstr(fragment)) << row.lines;
  }
}

TEST(Rules, UnknownNamesGetTheNearestKnownOne) {
  expect_refused({
      {"[prune]\nsparsty = 0.5\n",
       {"run.toml:9: unknown key 'prune.sparsty'; did you mean 'prune.sparsity'?"}},
      {"[prune]\nSparsity = 0.5\n", {"'prune.Sparsity'; did you mean 'prune.sparsity'?"}},
      {"resource = 1.0\n",
       {"run.toml:8: unknown key 'client.novels.resource'; did you mean 'client.novels.resources'?"}},
      {"[prune]\nseed = 3\n", {"unknown key 'prune.seed'; did you mean 'run.seed'?"}},
      {"[report]\nsparsty = 3\n", {"unknown key 'report.sparsty'; did you mean 'prune.sparsity'?"}},
      {"[report]\nqqqqqqqq = 3\n", {"unknown key 'report.qqqqqqqq'; the keys of 'report' are standalone"}},
      {"[prun]\nsparsity = 0.5\n", {"run.toml:8: unknown table 'prun'; did you mean 'prune'?"}},
      {"[[clients]]\nname = \"x\"\n", {"unknown table 'clients'; did you mean 'client'?"}},
      {"[qqqqqqqq]\n", {"unknown table 'qqqqqqqq'; the tables are model, run, prune"}},
      {"[prune.sparsty]\nx = 1\n", {"unknown key 'prune.sparsty'; did you mean 'prune.sparsity'?"}},
      {"[prune]\nmethod = \"sparsgpt\"\n",
       {"prune.method: found \"sparsgpt\", expected one of \"sparsegpt\", \"wanda\", \"magnitude\", "
        "\"random\"",
        "did you mean 'sparsegpt'?"}},
      {"[prune]\nmethod = \"SparseGPT\"\n", {"found \"SparseGPT\"", "did you mean 'sparsegpt'?"}},
  });
  EXPECT_THAT(refusal(std::string("sparsity = 0.5\n") + kSmallest),
              HasSubstr("run.toml:1: unknown key 'sparsity'; did you mean 'prune.sparsity'?"));
  EXPECT_THAT(refusal(std::string("qqqqqqqq = 0.5\n") + kSmallest),
              HasSubstr("every key belongs to a table: model, run"));
}

TEST(Rules, EveryChoiceListsItsValues) {
  expect_refused({
      {"[calibration]\nsampling = \"x\"\n",
       {"calibration.sampling: found \"x\"", "\"random\", \"sequential\""}},
      {"[prune]\norder = \"x\"\n", {"prune.order", "\"staged\", \"block\""}},
      {"[prune]\ncount = \"x\"\n", {"prune.count", "\"exact\", \"published\""}},
      {"[federation]\naggregation = \"x\"\n", {"\"l0\", \"mean\", \"none\""}},
      {"[federation]\ntie = \"x\"\n", {"\"score\", \"magnitude\", \"index\""}},
      {"[federation]\ntransport = \"x\"\n", {"\"auto\", \"reduce\", \"gather\", \"nccl\""}},
      {"[federation]\ntopology = \"x\"\n", {"\"auto\", \"root\", \"owners\", \"nodes\""}},
      {"[federation]\nlayer_sampling = \"x\"\n", {"\"none\", \"resources\""}},
      {"[federation]\ncoverage = \"x\"\n", {"\"required\", \"warn\""}},
      {"[federation]\ncoverage = 1\n", {"found 1", "\"required\", \"warn\""}},
  });
  EXPECT_THAT(refusal(kSmallest, {"run.backend=gpu"}), HasSubstr("did you mean 'cuda'?"));
  EXPECT_THAT(refusal(kSmallest, {"run.backend=x"}), HasSubstr("\"auto\", \"cpu\", \"cuda\", \"reference\""));
  EXPECT_THAT(refusal(kSmallest, {"model.dtype=bfloat16"}), HasSubstr("\"stored\", \"float32\""));
}

TEST(Rules, NumbersMustHaveTheirTypeAndRange) {
  for (const char* value : {"nan", "inf", "-inf", "-0.1", "1.5", "2", "1e300"}) {
    const std::string lines = std::string("[prune]\nsparsity = ") + value + "\n";
    const std::string shown = value == std::string("1e300") ? "1e+300" : value;
    expect_refused({{lines.c_str(), {"prune.sparsity: found " + shown + ", expected a number from 0 to 1"}}});
  }
  expect_refused({
      {"[prune]\nsparsity = \"0.5\"\n", {"found the string \"0.5\", expected a number"}},
      {"[prune]\nsparsity = true\n", {"found true, expected a number"}},
      {"[prune]\nsparsity = [0.5]\n", {"found a list"}},
      {"[prune]\nsparsity = {x = 1}\n", {"found a table"}},
      {"[prune]\nsparsity = 2024-01-01\n", {"found a date or time"}},
      {"[prune]\ndamping = 0\n", {"prune.damping: found 0, expected a number above 0 and at most 10"}},
      {"[prune]\ndamping = nan\n", {"found nan"}},
      {"[prune]\nblock_size = 0\n", {"prune.block_size: found 0, expected an integer from 1 to 65536"}},
      {"[prune]\nblock_size = 128.0\n", {"found 128.0, expected an integer"}},
      {"[calibration]\nsamples = 0\n", {"calibration.samples: found 0"}},
      {"[calibration]\nsamples = 2147483648\n", {"calibration.samples: found 2147483648"}},
      {"[calibration]\nsequence_length = -5\n", {"found -5"}},
      {"[federation]\nrounds = 0\n", {"federation.rounds: found 0, expected an integer from 1 to 1000"}},
      {"[federation]\nchunk_bytes = 65535\n", {"expected an integer from 65536 to 1073741824"}},
      {"[federation]\nchunk_bytes = 1073741825\n", {"federation.chunk_bytes"}},
      {"[federation]\nmask_expansion = 1\n", {"federation.mask_expansion: found 1, expected true or false"}},
      {"[federation]\nmask_expansion = \"yes\"\n", {"found the string \"yes\", expected true or false"}},
      {"resources = 0\n", {"client.novels.resources: found 0, expected a number above 0 and at most 1"}},
      {"resources = 1.0001\n", {"found 1.0001"}},
      {"samples = 0\n", {"client.novels.samples: found 0"}},
      {"rank = -1\n", {"client.novels.rank: found -1"}},
      {"[[evaluation]]\nname = \"x\"\ntokens = \"t\"\nsequence_length = 1\n",
       {"evaluation.x.sequence_length: found 1"}},
      {"[[evaluation]]\nname = \"x\"\ntokens = \"t\"\nsamples = 0\n", {"evaluation.x.samples: found 0"}},
  });
  EXPECT_THAT(refusal(kSmallest, {"run.seed=-1"}),
              HasSubstr("run.seed: found -1, expected an integer of at least 0"));
  EXPECT_THAT(refusal(kSmallest, {"run.threads=-1"}), HasSubstr("run.threads: found -1"));
}

TEST(Rules, PatternsMustKeepSomeOfMoreWeights) {
  for (const char* pattern :
       {"4:2", "0:4", "2:0", "4:4", "-1:4", "+1:4", "2:", ":4", ":", "", "2;4", "2:4:8", "2:4 ", " 2:4",
        "a:b", "Unstructured", "64:129", "99999999999999999999:4", "0x1:4"}) {
    const std::string lines = std::string("[prune]\npattern = \"") + pattern + "\"\n";
    expect_refused(
        {{lines.c_str(), {std::string("prune.pattern: found \"") + pattern + "\"", "1 <= N < M <= 128"}}});
  }
  expect_refused({{"[prune]\npattern = 2\n", {"prune.pattern: found 2, expected"}}});
}

TEST(Rules, KeysMustAgreeWithEachOther) {
  expect_refused({
      {"[prune]\npattern = \"2:4\"\nsparsity = 0.6\n",
       {"run.toml:10: prune.sparsity: found 0.6, expected 0.5", "\"2:4\""}},
      {"[prune]\npattern = \"1:4\"\nsparsity = 0.5\n", {"found 0.5, expected 0.75"}},
      {"[prune]\npattern = \"2:4\"\nblock_size = 6\n",
       {"run.toml:10: prune.block_size: found 6, expected a multiple of 4"}},
      {"[prune]\npattern = \"1:3\"\n", {"run.toml:9: prune.block_size: found 128, expected a multiple of 3"}},
      {"[prune]\nmethod = \"wanda\"\ncount = \"published\"\n",
       {"run.toml:10: prune.count: found \"published\"", "\"wanda\""}},
      {"[federation]\naggregation = \"none\"\nrounds = 2\n", {"federation.rounds: found 2, expected 1"}},
  });
  EXPECT_THAT(refusal(kSmallest, {"federation.transport=nccl", "run.backend=cpu"}),
              HasSubstr("run.backend is \"cpu\""));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"federation.transport=nccl"}));
  EXPECT_THAT(refusal(kSmallest, {"run.products=f16", "run.backend=cpu"}),
              HasSubstr("run.products: found \"f16\", expected \"f32\" or \"bf16\""));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"run.products=bf16", "run.backend=cpu"}));
  EXPECT_THAT(refusal(kSmallest, {"run.products=fp8"}), HasSubstr("\"f32\", \"f16\", \"bf16\""));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"run.products=f16"}));
  EXPECT_THAT(refusal(kSmallest, {"federation.transport=reduce", "federation.deadline=2"}),
              HasSubstr("federation.deadline: found 2, expected 0"));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"federation.transport=gather", "federation.deadline=2"}));
  EXPECT_THAT(refusal(kSmallest, {"federation.transport=reduce", "federation.topology=owners"}),
              HasSubstr("expected transport \"auto\" or \"gather\""));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"federation.topology=owners", "federation.deadline=2"}));
  EXPECT_THAT(
      refusal(kSmallest, {"federation.transport=gather", "federation.topology=nodes"}),
      HasSubstr("found \"nodes\" with transport \"gather\", expected transport \"auto\" or \"reduce\""));
  EXPECT_THAT(refusal(kSmallest, {"federation.deadline=2", "federation.topology=nodes"}),
              HasSubstr("federation.deadline: found 2, expected 0 (with topology \"nodes\""));
  EXPECT_NO_THROW((void)parsed(kSmallest, {"federation.topology=nodes", "federation.transport=reduce"}));
  EXPECT_NO_THROW((void)with("[prune]\ncount = \"published\"\norder = \"block\"\n"));
}

TEST(Rules, TheResultMustNotLandInTheInput) {
  EXPECT_THAT(refusal(kSmallest, {"run.dir=model"}),
              HasSubstr("run.dir: found /somewhere/configs/model, expected a folder other"));
  EXPECT_THAT(refusal(kSmallest, {"run.dir=x", "model.path=x/model/"}),
              HasSubstr("would overwrite the input"));
}

TEST(Rules, NamesMustBeUsableAndUnique) {
  const auto client = [](const std::string& name) {
    return refusal_with("[[client]]\nname = " + name + "\ntokens = \"x\"\n");
  };
  EXPECT_THAT(client("\"\""),
              HasSubstr("run.toml:9: client[2].name: found \"\", expected a name that is not empty"));
  for (const char* name : {"\".\"", "\"..\"", "\"a/b\"", "\"/\"", "'a\\b'", "\"a\\u0000b\"", "\"a\\nb\""})
    EXPECT_THAT(client(name), HasSubstr(".name: found ")) << name;
  EXPECT_THAT(client("7"), HasSubstr("found 7, expected a name in quotes"));
  EXPECT_THAT(client('"' + std::string(101, 'x') + '"'), HasSubstr("at most 100 bytes"));
  EXPECT_NO_THROW((void)with("[[client]]\nname = \"" + std::string(100, 'x') + "\"\ntokens = \"x\"\n"));
  EXPECT_THAT(client("\"novels\""), HasSubstr("run.toml:9: client: the name 'novels' is already taken at "
                                              "/somewhere/configs/run.toml:6"));
  const std::string set = "[[evaluation]]\nname = \"x\"\ntokens = \"t\"\n";
  EXPECT_THAT(refusal_with(set + set), HasSubstr("evaluation: the name 'x' is already taken"));
  EXPECT_NO_THROW((void)with("[[evaluation]]\nname = \"novels\"\ntokens = \"t\"\n"))
      << "clients and sets may share names";
}

TEST(Rules, PathsMustBePaths) {
  EXPECT_THAT(refusal(kSmallest, {"run.dir="}), HasSubstr("run.dir: found \"\", expected a path"));
  EXPECT_THAT(refusal(kSmallest, {"run.dir=~/x"}), HasSubstr("without '~'"));
  EXPECT_THAT(refusal(kSmallest, {"run.dir=\"a\\u0000b\""}), HasSubstr("without control characters"));
  EXPECT_THAT(refusal(kSmallest, {"run.dir=[\"a\"]"}), HasSubstr("found a list, expected a path in quotes"));
  EXPECT_THAT(refusal(kSmallest, {"client.novels.tokens=[]"}),
              HasSubstr("found an empty list, expected at least one path"));
  EXPECT_THAT(refusal(kSmallest, {"client.novels.tokens=[\"a\", 1]"}), HasSubstr("found 1 in the list"));
  EXPECT_THAT(refusal(kSmallest, {"client.novels.tokens=[\"a\", \"\"]"}),
              HasSubstr("found \"\", expected a path"));
  EXPECT_THAT(refusal_with("[[evaluation]]\nname = \"x\"\ntokens = [\"a\"]\n"),
              HasSubstr("evaluation.x.tokens: found a list"));
}

TEST(Rules, TablesMustHaveTheirShape) {
  const std::string head = "[model]\npath = \"m\"\n[run]\ndir = \"r\"\n";
  EXPECT_THAT(refusal(head), HasSubstr("run.toml: no [[client]]: expected at least one"));
  EXPECT_THAT(refusal(head + "[client]\nname = \"x\"\n"),
              AllOf(HasSubstr("run.toml:5: client: found one table, expected entries [[client]]"),
                    Not(HasSubstr("\n"))));
  EXPECT_THAT(refusal("client = 3\n" + head), HasSubstr("client: found 3, expected entries [[client]]"));
  EXPECT_THAT(refusal("client = [1]\n" + head), HasSubstr("client: found 1, expected entries [[client]]"));
  EXPECT_THAT(refusal_with("[[prune]]\nsparsity = 0.5\n"),
              HasSubstr("prune: found a list of tables, expected one table [prune]"));
  EXPECT_THAT(refusal(std::string("prune = 0.5\n") + kSmallest),
              HasSubstr("prune: found 0.5, expected one table [prune]"));
  EXPECT_EQ(parsed("client = [{name = \"a\", tokens = \"b\"}]\n" + head).clients.size(), 1U);
}

TEST(Rules, MissingKeysAreNamedWithTheirPurpose) {
  const std::string empty = refusal("");
  EXPECT_THAT(empty, HasSubstr("run.toml: missing key 'model.path' (the folder of the model to prune)"));
  EXPECT_THAT(empty, HasSubstr("run.toml: missing key 'run.dir'"));
  EXPECT_THAT(empty, HasSubstr("no [[client]]"));
  const std::string entries = refusal_with("[[client]]\n[[evaluation]]\n");
  EXPECT_THAT(entries, HasSubstr("run.toml:8: missing key 'client[2].name'"));
  EXPECT_THAT(entries, HasSubstr("run.toml:8: missing key 'client[2].tokens'"));
  EXPECT_THAT(entries, HasSubstr("run.toml:9: missing key 'evaluation[1].name'"));
  EXPECT_THAT(entries, HasSubstr("run.toml:9: missing key 'evaluation[1].tokens'"));
}

TEST(Rules, AllProblemsAreReportedTogetherInTheOrderOfTheFile) {
  const std::string message = refusal(
      "[run]\ndir = 3\nsede = 1\n[prune]\nsparsity = 2\npattern = \"2:4\"\n[[client]]\nname = \"\"\n"
      "[model]\npath = \"m\"\n",
      {"calibration.samples=none"});
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin <= message.size();) {
    const std::size_t end = std::min(message.find('\n', begin), message.size());
    lines.push_back(message.substr(begin, end - begin));
    begin = end + 1;
  }
  EXPECT_THAT(lines, testing::ElementsAre(
                         HasSubstr("run.toml:2: run.dir"), HasSubstr("run.toml:3: unknown key 'run.sede'"),
                         HasSubstr("run.toml:5: prune.sparsity: found 2"),
                         HasSubstr("run.toml:7: missing key"), HasSubstr("run.toml:8: client[1].name"),
                         HasSubstr("--set calibration.samples=none: calibration.samples: found")));
}

TEST(Rules, LongTextsAreShortenedWithoutCuttingACharacter) {
  std::string word;
  for (int i = 0; i < 100; ++i) word += "\xc3\xa4";
  const std::string message = refusal_with("[prune]\nmethod = \"x" + word + "\"\n");
  EXPECT_LT(message.size(), 250U);
  EXPECT_THAT(message, HasSubstr("\xc3\xa4\"..., expected"));
}

TEST(Rules, ASimulationSaysWhatItLacks) {
  EXPECT_THAT(refusal("[simulate]\n"), HasSubstr("no shapes: give model.path"));
  const std::string shape = "[simulate]\nshape = \"llama-2-7b\"\n";
  EXPECT_THAT(refusal("[simulate]\nshape = \"llama-2-7\"\n"), HasSubstr("did you mean"));
  EXPECT_THAT(refusal(shape + "checkpoint = true\n"), HasSubstr("expected a folder as run.dir"));
  EXPECT_THAT(refusal(shape + "dropouts = 0.1\n"), HasSubstr("on_client_failure = \"drop\""));
  EXPECT_THAT(refusal(shape + "fit = [2, 4]\nheld_out = [4]\n"), HasSubstr("not in simulate.fit"));
  EXPECT_THAT(refusal(shape + "fit = [4, 2]\n"), HasSubstr("found 2 after 4"));
  EXPECT_THAT(refusal(shape + "fit = 4\n"), HasSubstr("expected a list of integers"));
  EXPECT_THAT(refusal(shape + "fit = [0]\n"), HasSubstr("in the list"));
  EXPECT_THAT(refusal(shape + "client = 4\n"), HasSubstr("did you mean 'simulate.clients'"));
  EXPECT_THAT(refusal(shape + "stragglers = 1.5\n"), HasSubstr("a number from 0 to 1"));
}

}  // namespace
}  // namespace fedspallm::config::test
