// The Vercel AI SDK. See `tests/clients/test_clients.py`.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "runpod",
  baseURL: `${process.argv[2]}/chat/openai/v1`,
  apiKey: "any",
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const fixed = { model: provider("qwen_instruct"), system: "Name birds.", prompt: "hello", temperature: 0, maxRetries: 0 };
const Bird = z.object({ name: z.enum(["heron", "swan"]), wild: z.boolean() });
const look = tool({ description: "Looks at a place.", inputSchema: z.object({ at: z.enum(["bay", "lake"]) }), execute: async () => "a heron" });

const scenarios = {
  async plain() {
    const answer = await generateText({ ...fixed, maxOutputTokens: 20 });
    return { text: answer.text, finish: answer.finishReason, tokens: answer.usage.outputTokens };
  },
  async streamed() {
    const answer = streamText({ ...fixed, maxOutputTokens: 20 });
    let text = "";
    for await (const delta of answer.textStream) text += delta;
    return { text, finish: await answer.finishReason, tokens: (await answer.usage).outputTokens };
  },
  async structured() {
    const whole = await generateText({ ...fixed, output: Output.object({ schema: Bird }) });
    const streamed = streamText({ ...fixed, output: Output.object({ schema: Bird }) });
    for await (const _ of streamed.textStream);
    if (JSON.stringify(await streamed.output) !== JSON.stringify(whole.output)) throw new Error("the stream has another object");
    return whole.output;
  },
  async tools() {
    // The first step must call the tool. The second one has its result.
    const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
    const answer = await generateText({ ...fixed, tools: { look }, prepareStep, stopWhen: isStepCount(2), maxOutputTokens: 400 });
    const [call] = answer.steps[0].toolCalls;
    const stream = streamText({ ...fixed, tools: { look }, toolChoice: "required" });
    for await (const _ of stream.textStream);
    const [streamed] = await stream.toolCalls;
    if (JSON.stringify(streamed.input) !== JSON.stringify(call.input)) throw new Error("the stream has another call");
    return { name: call.toolName, arguments: call.input, followed: answer.finishReason };
  },
  async error() {
    const error = await generateText({ ...fixed, seed: -1 }).catch((error) => error);
    if (!APICallError.isInstance(error)) throw error;
    return { status: error.statusCode, message: error.message };
  },
  async stream_error() {
    const errors = [];
    const answer = streamText({ ...fixed, seed: -1, onError: ({ error }) => errors.push(error) });
    for await (const part of answer.fullStream) if (part.type === "error") errors.push(part.error);
    return { message: errors[0].message ?? String(errors[0]) };
  },
};

const results = {};
for (const [name, run] of Object.entries(scenarios)) results[name] = await run();
process.stdout.write(JSON.stringify(results));
