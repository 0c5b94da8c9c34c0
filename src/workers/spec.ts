/** What a run of a defined job needs: its schemas are put around its handler. */
import { inputInvalid } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { limitKeysOf } from '../jobs/limits.ts';
import type { JobEvent } from '../journal/event.ts';
import type { JobSpec } from '../runs/spec.ts';

export function toSpec(definition: AnyJobDefinition): JobSpec {
  return {
    name: definition.name,
    queue: definition.queue,
    policy: definition.policy,
    transparent: false,
    keyOf: () => undefined,
    ...(definition.limits === undefined
      ? {}
      : {
          limits: definition.limits,
          limitKeysOf({ input, tenant }) {
            const parsed = definition.input.safeParse(input);
            // What does not fit its schema fails when it runs, and says why.
            if (!parsed.success) return undefined;
            return limitKeysOf(definition.name, definition.limits, { input: parsed.data, tenant });
          },
        }),
    checkEvent: definition.events === undefined ? undefined : (event) => checkEvent(definition, event),
    async handle(input, ctx) {
      const parsed = definition.input.safeParse(input);
      if (!parsed.success) throw inputInvalid(`Input of job ${definition.name}`, parsed.error.issues);
      const result = await definition.run(parsed.data, ctx);
      if (definition.output === undefined) return result;
      const output = definition.output.safeParse(result);
      if (!output.success)
        throw inputInvalid(`Output of job ${definition.name}`, output.error.issues, 'OUTPUT_INVALID');
      return output.data;
    },
    ...(definition.onPoison === undefined ? {} : { onPoison: definition.onPoison.bind(definition) }),
  };
}

function checkEvent(definition: AnyJobDefinition, event: JobEvent): void {
  const parsed = definition.events?.safeParse(event);
  if (parsed?.success === false)
    throw inputInvalid(`Event of job ${definition.name}`, parsed.error.issues, 'EVENT_INVALID');
}
