// Drives `prima serve` with the official openai client: node openai_client_test.mjs CLIENT URL KEY,
// where CLIENT is the folder that the package is installed in.
//
// The model is a random one: what it says means nothing, but what form it has is decided here.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

const [client_folder, baseURL, apiKey] = process.argv.slice(2);
const require = createRequire(client_folder + '/package.json');
const OpenAI = require('openai');
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const model = 'toy';
const messages = [
  { role: 'system', content: 'You are brief.' },
  { role: 'user', content: 'Say something.' },
];
const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather in a city',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string', enum: ['Oslo', 'Rome'] } },
      required: ['city'],
    },
  },
};

test('lists the model', async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('chats, and the same seed says the same', async () => {
  const ask = () => client.chat.completions.create({ model, messages, max_tokens: 12, seed: 7 });
  const [first, second] = [await ask(), await ask()];
  assert.equal(first.object, 'chat.completion');
  assert.equal(first.choices[0].message.role, 'assistant');
  assert.ok(first.choices[0].message.content.length > 0);
  assert.equal(first.choices[0].message.content, second.choices[0].message.content);
  assert.equal(first.usage.total_tokens, first.usage.prompt_tokens + first.usage.completion_tokens);
  assert.ok(second.usage.prompt_tokens_details.cached_tokens > 0);
});

test('streams what it says whole', async () => {
  const request = { model, messages, max_tokens: 20, temperature: 0 };
  const whole = await client.chat.completions.create(request);
  const stream = await client.chat.completions.create({
    ...request, stream: true, stream_options: { include_usage: true } });
  let content = '';
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    content += chunk.choices[0]?.delta?.content ?? '';
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(content, whole.choices[0].message.content);
  assert.equal(finish, whole.choices[0].finish_reason);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test('several choices, stop strings, bias and penalties', async () => {
  const several = await client.chat.completions.create({ model, messages, max_tokens: 5, n: 3 });
  assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1, 2]);
  const all = (await client.chat.completions.create(
    { model, messages, max_tokens: 30, temperature: 0 })).choices[0].message.content;
  const stop = all.slice(5, 8);
  const stopped = await client.chat.completions.create(
    { model, messages, max_tokens: 30, temperature: 0, stop: [stop] });
  assert.equal(stopped.choices[0].finish_reason, 'stop');
  assert.equal(stopped.choices[0].message.content, all.slice(0, all.indexOf(stop)));
  const penalized = await client.chat.completions.create(
    { model, messages, max_tokens: 5, frequency_penalty: 1, presence_penalty: 1 });
  assert.ok(penalized.choices[0].message.content !== undefined);
});

test('log-probabilities', async () => {
  const answer = await client.chat.completions.create(
    { model, messages, max_tokens: 4, temperature: 0, logprobs: true, top_logprobs: 3 });
  const { content } = answer.choices[0].logprobs;
  assert.equal(content.length, 4);
  for (const token of content) {
    assert.equal(token.top_logprobs.length, 3);
    assert.equal(token.logprob, token.top_logprobs[0].logprob); // temperature 0: the favourite
    assert.ok(token.logprob <= 0 && Array.isArray(token.bytes));
  }
  const banned = Number((await (await fetch(baseURL.replace('/v1', '/tokenize'), {
    method: 'POST', headers: { authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({ content: content[0].token }) })).json()).tokens.at(-1));
  const without = await client.chat.completions.create(
    { model, messages, max_tokens: 1, temperature: 0, logprobs: true,
      logit_bias: { [banned]: -100 } });
  assert.notEqual(without.choices[0].logprobs.content[0].token, content[0].token);
});

test('answers obey a JSON schema', async () => {
  const schema = {
    type: 'object', additionalProperties: false, required: ['colour', 'sure'],
    properties: { colour: { enum: ['red', 'green'] }, sure: { type: 'boolean' } },
  };
  const answer = await client.chat.completions.create({
    model, messages, max_tokens: 200,
    response_format: { type: 'json_schema', json_schema: { name: 'colour', schema } } });
  const parsed = JSON.parse(answer.choices[0].message.content);
  assert.ok(['red', 'green'].includes(parsed.colour));
  assert.equal(typeof parsed.sure, 'boolean');
  assert.equal(answer.choices[0].finish_reason, 'stop');
});

test('calls a tool, whole and streamed', async () => {
  const request = { model, messages, tools: [weather], tool_choice: 'required', max_tokens: 300,
                    parallel_tool_calls: false,
                    temperature: 0 };
  const answer = await client.chat.completions.create(request);
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.type, 'function');
  assert.equal(call.function.name, 'get_weather');
  assert.ok(['Oslo', 'Rome'].includes(JSON.parse(call.function.arguments).city));

  const stream = client.beta.chat.completions.stream(request);
  const [streamed] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  assert.deepEqual(JSON.parse(streamed.function.arguments), JSON.parse(call.function.arguments));

  const next = await client.chat.completions.create({
    model, max_tokens: 5, tools: [weather],
    messages: [...messages, answer.choices[0].message,
               { role: 'tool', tool_call_id: call.id, content: 'sunny' }] });
  assert.ok(next.choices[0]);
});

test('an aborted answer ends', async () => {
  const stream = await client.chat.completions.create(
    { model, messages, max_tokens: 4000, stream: true, ignore_eos: true });
  let n = 0;
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content && ++n === 3) stream.controller.abort();
  }
  const metrics = async () => (await fetch(baseURL.replace('/v1', '/metrics'),
    { headers: { authorization: `Bearer ${apiKey}` } })).text();
  for (let i = 0; i < 300 && !(await metrics()).includes('prima_requests_running 0\n'); ++i) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok((await metrics()).includes('prima_requests_running 0\n'));
});

test('completions', async () => {
  const answer = await client.completions.create(
    { model, prompt: 'Once upon', max_tokens: 6, echo: true, logprobs: 1, temperature: 0 });
  assert.ok(answer.choices[0].text.startsWith('Once upon'));
  assert.equal(answer.choices[0].logprobs.tokens.length, 6);
  let text = '';
  const stream = await client.completions.create(
    { model, prompt: 'Once upon', max_tokens: 6, stream: true, temperature: 0 });
  for await (const chunk of stream) text += chunk.choices[0].text;
  assert.equal('Once upon' + text, answer.choices[0].text);
});

test('embeddings', async () => {
  const input = ['Once upon a time', 'The end'];
  const two = await client.embeddings.create({ model, input });
  assert.equal(two.data.length, 2);
  assert.ok(two.usage.prompt_tokens > 2);
  const [first] = two.data.map(({ embedding }) => embedding);
  assert.ok(Math.abs(first.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-4);
  const again = await client.embeddings.create({ model, input: input[0], encoding_format: 'float' });
  assert.equal(again.data[0].embedding.length, first.length);
  again.data[0].embedding.forEach((x, i) => assert.ok(Math.abs(x - first[i]) < 0.02));
});

test('errors are the client\'s own classes', async () => {
  const chat = (more) => client.chat.completions.create({ model, messages, ...more });
  await assert.rejects(chat({ temperature: -1 }), OpenAI.BadRequestError);
  await assert.rejects(chat({ max_tokens: -5 }), (error) =>
    error instanceof OpenAI.BadRequestError && error.param === 'max_tokens');
  await assert.rejects(chat({ model: 'other' }), (error) =>
    error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
  await assert.rejects(chat({ messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(
    chat({ messages: [{ role: 'user', content: 'x '.repeat(100_000) }] }),
    (error) => error.code === 'context_length_exceeded');
  await assert.rejects(
    client.embeddings.create({ model, input: [] }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});
