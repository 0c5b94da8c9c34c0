/** OpenAI's package asks a job as a model, and the same question once: node examples/clients/openai.ts */
import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: `${process.env.ONCEFLEET_URL ?? 'http://127.0.0.1:3000'}/v1`,
  apiKey: process.env.ONCEFLEET_TOKEN ?? 'unused',
});
const stream = await client.responses.create(
  { model: 'summarize', input: 'A text of openai', stream: true, background: true },
  { headers: { 'Idempotency-Key': 'summary-of-openai' } },
);
for await (const event of stream) if (event.type === 'response.output_text.delta') process.stdout.write(event.delta);
