// OpenAI's client for JavaScript. See `tests/clients/test_clients.py`.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.argv[2]}/chat/openai/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "system", content: "Name birds." }, { role: "user", content: "hello" }];
const fixed = { model: "qwen_instruct", temperature: 0, messages };
const Bird = z.object({ name: z.enum(["heron", "swan"]), wild: z.boolean() });
const look = { name: "look", description: "Looks at a place.", parameters: z.object({ at: z.enum(["bay", "lake"]) }) };

const scenarios = {
  async plain() {
    const answer = await client.chat.completions.create({ ...fixed, max_completion_tokens: 20 });
    const [choice] = answer.choices;
    return { text: choice.message.content, finish: choice.finish_reason, tokens: answer.usage.completion_tokens };
  },
  async streamed() {
    const stream = client.chat.completions.stream({ ...fixed, max_completion_tokens: 20, stream_options: { include_usage: true } });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    return { text, finish: final.choices[0].finish_reason, tokens: final.usage.completion_tokens };
  },
  async structured() {
    const answer = await client.chat.completions.parse({ ...fixed, response_format: zodResponseFormat(Bird, "bird") });
    return answer.choices[0].message.parsed;
  },
  async tools() {
    const tools = [zodFunction(look)];
    const { message } = (await client.chat.completions.parse({ ...fixed, tools, tool_choice: "required" })).choices[0];
    const stream = client.chat.completions.stream({ ...fixed, tools, tool_choice: "required" });
    const streamed = (await stream.finalChatCompletion()).choices[0].message.tool_calls[0].function;
    if (streamed.arguments !== message.tool_calls[0].function.arguments) throw new Error("the stream has another call");
    const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "a heron" }));
    const followed = await client.chat.completions.create({ ...fixed, messages: [...messages, message, ...results], tools, max_tokens: 20 });
    const call = message.tool_calls[0].function;
    return { name: call.name, arguments: call.parsed_arguments, followed: followed.choices[0].finish_reason };
  },
  async error() {
    const error = await client.chat.completions.create({ ...fixed, seed: -1 }).catch((error) => error);
    if (!(error instanceof OpenAI.BadRequestError)) throw error;
    return { status: error.status, message: error.message };
  },
  async stream_error() {
    try {
      for await (const _ of await client.chat.completions.create({ ...fixed, seed: -1, stream: true }));
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      return { message: error.message };
    }
    throw new Error("no error");
  },
};

const results = {};
for (const [name, run] of Object.entries(scenarios)) results[name] = await run();
process.stdout.write(JSON.stringify(results));
