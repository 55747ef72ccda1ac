import { afterEach, test } from '@jest/globals';
import { ANSWERS, isGood, loseAnswer, type LostUpload } from '../support/lost-answer.js';
import { Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, until } from '../support/temporary.js';

let stage: Stage;

afterEach(async () => {
  await stage.close();
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
    stage = await Stage.open();
    const client = new StageClient(stage, transport, interop);
    const target = '/restart/answered?a=b';
    const { lost, letAnswer } = await loseAnswer(client, { target, answer, bytes: randomBytes(20_000) });
    letAnswer();
    await until(() => stage.requestsFor(target)[0]!.finished, 'the origin to have answered');
    await stage.restart();
    if (isGood(answer)) await lost.expectComplete();
    else await lost.expectHeldBack({ answered: true });
    await lost.expectAnswer(await lost.repeatEnd(), answer);
    await lost.expectAnswer(await lost.repeatNothing(), answer);
    lost.expectRequests(1);
  },
);

test('an answer that comes while the proxy is stopping is kept', async () => {
  stage = await Stage.open();
  const client = new StageClient(stage, 'HTTP/1.1', '8');
  const answer = ANSWERS[1]!;
  const { lost, letAnswer } = await loseAnswer(client, { target: '/restart/stop', answer, bytes: randomBytes(9) });
  const restarted = stage.restart();
  letAnswer();
  await restarted;
  await lost.expectComplete();
  await lost.expectAnswer(await lost.repeatEnd(), answer);
  lost.expectRequests(1);
});

/** The proxy does not wait for the origin any longer, and comes back. */
async function restartWithin(method: string): Promise<LostUpload & { readonly target: string }> {
  stage = await Stage.open({ config: 'stop: { grace: 100ms }' });
  const client = new StageClient(stage, 'HTTP/1.1', '9');
  const target = '/restart/within';
  const upload = await loseAnswer(client, { target, method, answer: ANSWERS[0]!, bytes: randomBytes(20_000) });
  await stage.restart();
  upload.letAnswer();
  return { ...upload, target };
}

test('a PUT that the origin was working on is delivered again after the restart, with nobody asking', async () => {
  const { lost, target } = await restartWithin('PUT');
  await stage.requestsWhole(target, 2);
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
