import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { comparable, FlowClient, VARIANTS } from '../support/flow-client.js';
import { ANSWERS, isGood, latch, loseAnswer, LostAnswer, type LostUpload } from '../support/lost-answer.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, until } from '../support/temporary.js';
import { TestProxy } from '../support/test-proxy.js';

describe('lost answers', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const VOICES = VARIANTS.filter(({ interop }) => ['3', '5', '6', '8', '10', 'final'].includes(interop));

  describe.each(VOICES)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    test.each(ANSWERS)('an answer of $status that the client did not get waits for it', async (answer) => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/lost/${answer.status}?seed=${seed}`;
      const { lost, letAnswer } = await loseAnswer(client, { target, answer, bytes: randomBytes(30_000 + seed, seed) });
      await lost.expectHeldBack({ answered: false });
      const waiting = await lost.repeatEnd();
      let isAnswered = false;
      const answered = lost.expectAnswer(waiting, answer).finally(() => (isAnswered = true));
      await lost.expectHeldBack({ answered: false });
      expect(isAnswered).toBe(false);
      letAnswer();
      await answered;
      if (isGood(answer)) await lost.expectComplete();
      else await lost.expectHeldBack({ answered: true });
      await lost.expectAnswer(await lost.repeatEnd(), answer);
      await lost.expectAnswer(await lost.repeatNothing(), answer);
      lost.expectRequests(1);
    });

    test('an upload of one byte whose answer was lost shows nothing until it has come', async () => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/lost/one-byte?seed=${seed}`;
      const { lost, letAnswer } = await loseAnswer(client, { target, answer: ANSWERS[0]!, bytes: Buffer.from('x') });
      await lost.expectHeldBack({ answered: false });
      letAnswer();
      await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[0]!);
      await lost.expectComplete();
      lost.expectRequests(1);
    });

    test('a client that repeats the end with another byte, or more, gets no answer', async () => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/lost/other-byte?seed=${seed}`;
      const bytes = randomBytes(1000, seed);
      const { upload, lost, letAnswer } = await loseAnswer(client, { target, answer: ANSWERS[1]!, bytes });
      const end = { offset: 999, complete: true };
      const other = Buffer.from([bytes[999]! ^ 1]);
      const heldBack = refusalOfTheEnd(client, 999);
      expect(comparable(await upload.append(other, end))).toEqual(heldBack);
      expect(comparable(await upload.append(Buffer.concat([bytes.subarray(-1), other]), end))).toEqual(heldBack);
      expect(comparable(await upload.append(other, { offset: 1000, complete: true }))).toEqual(heldBack);
      letAnswer();
      await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
      expect(comparable(await upload.append(other, end), { maxAgeSeconds: 3600 })).toEqual(
        refusalOfTheEnd(client, 1000),
      );
      lost.expectRequests(1);
    });

    test('a client is told when nobody knows whether the origin has taken the upload, and decides to send it again', async () => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/lost/hung-up?seed=${seed}`;
      const bytes = randomBytes(2000, seed);
      proxy.answer(target, () => (proxy.requestsFor(target).length > 1 ? ANSWERS[1]! : { hangUp: true }));
      const upload = await client.place({ target, length: 2000 });
      await upload.append(bytes.subarray(0, 1999), { offset: 0, complete: false });
      const lost = new LostAnswer(client, upload, target, bytes);
      await lost.expectUndelivered(await lost.repeatEnd());
      // It asks as one does that lost the response: it is told once more.
      await lost.expectHeldBack({ answered: false, isUnknown: true });
      await lost.expectUndelivered(await lost.repeatEnd());
      lost.expectRequests(1);
      await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
      lost.expectRequests(2);
      await lost.expectComplete();
    });

    test('the answer of a place that was filled before its end is repeated to an append of nothing', async () => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/lost/nothing-left?seed=${seed}`;
      const { opened, open } = latch();
      proxy.answer(target, { ...ANSWERS[3]!, after: opened });
      const bytes = randomBytes(500, seed);
      const upload = await client.place({ target, length: 500 });
      await upload.append(bytes, { offset: 0, complete: false });
      const lost = new LostAnswer(client, upload, target, bytes);
      const first = await lost.repeatNothing();
      await proxy.requestFor(target);
      first.leave('end');
      // A client of interop 6 would take an offset that is the length for success.
      const length = interop === '6' ? undefined : 500;
      const shown = client.expected.retrieved(500, { complete: false, length });
      expect(comparable(await upload.retrieve())).toEqual(shown);
      open();
      expect(comparable(await (await lost.repeatNothing()).readFinal()).status).toBe(422);
      await expectStillShown(upload, shown);
      lost.expectRequests(1);
    });
  });

  /** The offset was shown before: it stays, and the upload is still not complete. */
  async function expectStillShown(upload: ResumableUpload, shown: ReturnType<typeof comparable>): Promise<void> {
    expect(comparable(await upload.retrieve(), { maxAgeSeconds: 3600 })).toEqual(shown);
  }

  /** To whoever claims that the end is another one. */
  function refusalOfTheEnd({ dialect, expected }: FlowClient, offset: number): ReturnType<typeof comparable> {
    const number = dialect.name === 'final' ? 11 : Number(dialect.name);
    if (number <= 5) return expected.refused({ status: 409, offset });
    const type = number <= 7 ? 'completed-upload' : 'inconsistent-upload-length';
    return expected.refused({ status: 400, type, offset, limits: true });
  }
});

describe('restarts', () => {
  let proxy: TestProxy;

  afterEach(async () => {
    await proxy.close();
  });

  const VOICES = [
    { transport: 'HTTP/1.1', interop: '6' },
    { transport: 'HTTP/1.1', interop: 'final' },
    { transport: 'HTTP/2', interop: '3' },
    { transport: 'HTTP/2', interop: '10' },
  ] as const;

  const CASES = VOICES.flatMap((voice) => ANSWERS.map((answer) => ({ ...voice, answer, status: answer.status })));

  test.each(CASES)(
    'over $transport, interop $interop, an answer of $status survives a restart that its client was not there for',
    async ({ transport, interop, answer }) => {
      proxy = await TestProxy.open();
      const client = new FlowClient(proxy, transport, interop);
      const target = '/restart/answered?a=b';
      const { lost, letAnswer } = await loseAnswer(client, { target, answer, bytes: randomBytes(20_000) });
      letAnswer();
      await until(() => proxy.requestsFor(target)[0]!.finished, 'the origin to have answered');
      await proxy.restart();
      if (isGood(answer)) await lost.expectComplete();
      else await lost.expectHeldBack({ answered: true });
      await lost.expectAnswer(await lost.repeatEnd(), answer);
      await lost.expectAnswer(await lost.repeatNothing(), answer);
      lost.expectRequests(1);
    },
  );

  test('an answer that comes while the proxy is stopping is kept', async () => {
    proxy = await TestProxy.open();
    const client = new FlowClient(proxy, 'HTTP/1.1', '8');
    const answer = ANSWERS[1]!;
    const { lost, letAnswer } = await loseAnswer(client, { target: '/restart/stop', answer, bytes: randomBytes(9) });
    const restarted = proxy.restart();
    letAnswer();
    await restarted;
    await lost.expectComplete();
    await lost.expectAnswer(await lost.repeatEnd(), answer);
    lost.expectRequests(1);
  });

  /** The proxy does not wait for the origin any longer, and comes back. */
  async function restartWithin(method: string): Promise<LostUpload & { readonly target: string }> {
    proxy = await TestProxy.open({ config: 'stop: { grace: 100ms }' });
    const client = new FlowClient(proxy, 'HTTP/1.1', '9');
    const target = '/restart/within';
    const upload = await loseAnswer(client, { target, method, answer: ANSWERS[0]!, bytes: randomBytes(20_000) });
    await proxy.restart();
    upload.letAnswer();
    return { ...upload, target };
  }

  test('a PUT that the origin was working on is delivered again after the restart, with nobody asking', async () => {
    const { lost, target } = await restartWithin('PUT');
    await proxy.requestsWhole(target, 2);
    await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[0]!);
    lost.expectRequests(2);
    await lost.expectComplete();
  });

  test('a POST that the origin was working on is not sent again before its client knows of it and asks for it', async () => {
    const { lost } = await restartWithin('POST');
    await lost.expectHeldBack({ answered: false, isUnknown: true });
    await lost.expectUndelivered(await lost.repeatEnd());
    // It asks as one does that lost the response: it is told once more.
    await lost.expectHeldBack({ answered: false, isUnknown: true });
    await lost.expectUndelivered(await lost.repeatEnd());
    lost.expectRequests(1);
    await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[0]!);
    lost.expectRequests(2);
    await lost.expectComplete();
  });
});
