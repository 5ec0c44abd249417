#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "text/test_vocabulary.h"

namespace prima::text {
namespace {

const std::vector<ChatMessage> kConversation = {{"system", "Be brief."}, {"user", "Hi"}};

TEST(ChatTemplate, RunsTheModelsOwn) {
  const TestVocabulary vocabulary(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}");
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  const auto chat = ChatTemplate::load(tokenizer).value();
  EXPECT_TRUE(chat.is_the_models());
  // Without the BOS, which the tokenizer adds.
  EXPECT_EQ(chat.render(kConversation).value(), "[system] Be brief.\n[user] Hi\n[assistant]");
}

TEST(ChatTemplate, ChatMlStandsInForAModelWithoutOne) {
  const TestVocabulary vocabulary;
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  const auto chat = ChatTemplate::load(tokenizer).value();
  EXPECT_FALSE(chat.is_the_models());
  EXPECT_EQ(chat.render(kConversation).value(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplate, TheCallersGoesBeforeTheModels) {
  const TestVocabulary vocabulary("{{ 'own' }}");
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  const auto chat = ChatTemplate::load(tokenizer, "{{ messages[0].content }}!").value();
  EXPECT_EQ(chat.render(kConversation).value(), "Be brief.!");
}

TEST(ChatTemplate, SaysWhatIsWrongWithATemplate) {
  const TestVocabulary vocabulary("{% for m in messages %}{{ m.content }}");
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  for (const auto& result :
       {ChatTemplate::load(tokenizer), ChatTemplate::load(tokenizer, "{% if %}")}) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(result.error().what.find("unknown reason"), std::string::npos);
    EXPECT_FALSE(result.error().remedy.empty());
  }
}

#ifndef _WIN32
TEST(ChatTemplate, SurvivesTemplatesMeantToDoHarm) {
  const TestVocabulary vocabulary;
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  for (const std::string& source :
       {"{{ " + std::string(50000, '(') + "1" + std::string(50000, ')') + " }}",
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% set a=[1] %}{{ a.append(a) }}{{ a }}"),
        std::string("{% set n = namespace(s='x') %}{% for i in range(60) %}"
                    "{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}")}) {
    const auto result = ChatTemplate::load(tokenizer, source);
    ASSERT_FALSE(result) << source.substr(0, 60);
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(result.error().remedy.empty());
  }
}
#endif

TEST(ChatTemplate, PassesOnWhyAConversationIsRefused) {
  const TestVocabulary vocabulary;
  const auto tokenizer = Tokenizer::load(vocabulary.path()).value();
  const auto chat = ChatTemplate::load(
                        tokenizer,
                        "{% if messages[0].content == 'Be brief.' %}{{ raise_exception('roles must "
                        "alternate') }}{% endif %}{{ messages[0].content }}")
                        .value();
  EXPECT_EQ(chat.render(std::vector<ChatMessage>{{"user", "Hi"}}).value(), "Hi");
  const auto refused = chat.render(kConversation);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("roles must alternate"), std::string::npos)
      << refused.error().what;
}

}  // namespace
}  // namespace prima::text
