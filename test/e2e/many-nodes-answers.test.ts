import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { TRANSPORTS } from '../support/client.js';
import { FlowClient, REPRESENTATIVES } from '../support/flow-client.js';
import { ANSWERS, isGood, latch, loseAnswer, LostAnswer } from '../support/lost-answer.js';
import { openNodes, SETS } from '../support/nodes.js';
import { DIALECTS } from '../support/resumable-client.js';
import { randomBytes, until } from '../support/temporary.js';
import type { TestProxy } from '../support/test-proxy.js';
import { only } from '../support/thoroughness.js';

/** Dialects in turn over the transports; `test/flow/lost-answer` has six of them with one node, `test:long` all of them here. */
const VOICES = only(
  DIALECTS.map((interop, at) => ({ interop, transport: TRANSPORTS[at % 2]! })),
  ({ interop }) => REPRESENTATIVES.includes(interop),
);

describe.each(SETS)('$nodes nodes with bytes that are $bytes', ({ nodes: count, bytes: place }) => {
  let proxy: TestProxy;

  beforeAll(async () => {
    ({ proxy } = await openNodes({ nodes: count, bytes: place }));
  });

  afterAll(() => proxy.close());

  const named = (subject: string): string => `/answers/${subject}-${count}-${place}`;

  describe.each(VOICES)('over $transport, interop $interop', ({ transport, interop }) => {
    test.each(ANSWERS)('an answer of $status that was lost at one node waits at all of them', async (answer) => {
      const client = new FlowClient(proxy, transport, interop);
      const target = named(`lost-${answer.status}-${interop}`);
      const { lost, letAnswer } = await loseAnswer(client, { target, answer, bytes: randomBytes(30_000, count) });
      await lost.expectHeldBack({ answered: false });
      const waiting = await lost.repeatEnd();
      await lost.expectHeldBack({ answered: false });
      letAnswer();
      await lost.expectAnswer(waiting, answer);
      for (let at = 0; at < count; at++) {
        if (isGood(answer)) await lost.expectComplete();
        else await lost.expectHeldBack({ answered: true });
        await lost.expectAnswer(await lost.repeatEnd(), answer);
      }
      lost.expectRequests(1);
    });
  });

  describe.each(TRANSPORTS)('over %s', (transport) => {
    const open = (): FlowClient => new FlowClient(proxy, transport, '10');

    test('whoever waits at whatever node gets the answer when it is there, and the origin one request', async () => {
      const client = open();
      const target = named(`waiting-${transport}`);
      const answer = ANSWERS[1]!;
      const { lost, letAnswer } = await loseAnswer(client, { target, answer, bytes: randomBytes(20_000) });
      const waiting = [];
      for (let at = 0; at < 2 * count; at++) waiting.push(await lost.repeatEnd());
      await lost.expectHeldBack({ answered: false });
      letAnswer();
      for (const request of waiting) await lost.expectAnswer(request, answer);
      lost.expectRequests(1);
    });

    test('of many that complete an upload at once, at all nodes, the origin hears of one', async () => {
      const client = open();
      const target = named(`at-once-${transport}`);
      const answer = ANSWERS[1]!;
      proxy.answer(target, answer);
      const bytes = randomBytes(10_000);
      const upload = await client.place({ target, length: 10_000 });
      await upload.append(bytes.subarray(0, 9999), { offset: 0, complete: false });
      const end = { offset: 9999, complete: true } as const;
      const racers = Array.from({ length: 12 }, () => upload.append(bytes.subarray(9999), end).catch(() => undefined));
      const statuses = (await Promise.all(racers)).map((response) => response?.status);
      // The newest may end one that was still sending; that one, or one that came between, comes again.
      expect(statuses.filter((status) => ![201, 409, undefined].includes(status))).toEqual([]);
      const lost = new LostAnswer(client, upload, target, bytes);
      for (let at = 0; at < count; at++) await lost.expectAnswer(await lost.repeatEnd(), answer);
      lost.expectRequests(1);
    });

    test('a client that will not wait is told where every node says how its delivery stands', async () => {
      const client = open();
      const target = named(`accepted-${transport}`);
      const answer = ANSWERS[3]!;
      const { opened, open: letAnswer } = latch();
      proxy.answer(target, { ...answer, after: opened });
      const bytes = randomBytes(5000);
      const upload = await client.place({ target, length: 5000 });
      const end = { offset: 0, complete: true } as const;
      const accepted = await upload.append(bytes, end, [['Prefer', 'respond-async']]);
      expect(accepted.status).toBe(202);
      const status = new URL(accepted.header('Location')!).pathname;
      const shown = async (): Promise<Record<string, unknown>> => {
        const response = await client.send({ method: 'GET', target: status });
        return JSON.parse(response.body.toString()) as Record<string, unknown>;
      };
      await proxy.requestFor(target);
      for (let at = 0; at < count; at++) {
        expect(await shown()).toMatchObject({ phase: 'delivering', offset: 5000, attempts: 1 });
      }
      letAnswer();
      await until(async () => (await shown())['phase'] === 'answered', 'the answer');
      for (let at = 0; at < count; at++) {
        expect(await shown()).toMatchObject({ phase: 'answered', answer: { status: 422, at: 'answer' } });
        const kept = await client.send({ method: 'GET', target: `${upload.target}/answer` });
        expect([kept.status, kept.body.toString()]).toEqual([422, answer.body]);
      }
      expect(proxy.requestsFor(target)).toHaveLength(1);
    });

    test('an answer that is too large for the record is given again at every node', async () => {
      const client = open();
      const target = named(`large-${transport}`);
      const answer = { status: 200, headers: [], body: 'large '.repeat(400_000) };
      proxy.answer(target, answer);
      const bytes = randomBytes(3000);
      const upload = await client.place({ target, length: 3000 });
      const first = await upload.append(bytes, { offset: 0, complete: true });
      expect([first.status, first.body.toString() === answer.body]).toEqual([200, true]);
      const lost = new LostAnswer(client, upload, target, bytes);
      for (let at = 0; at < count; at++) await lost.expectAnswer(await lost.repeatEnd(), answer);
      lost.expectRequests(1);
    });
  });
});
