import { afterEach, expect, test } from '@jest/globals';
import { ANSWERS, isGood, loseAnswer } from '../support/lost-answer.js';
import { startProxy } from '../support/proxy.js';
import { Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, until } from '../support/temporary.js';

let stage: Stage;

afterEach(async () => {
  await stage.close();
});

/** The built binary, which `restart` kills with SIGKILL. */
async function open(): Promise<StageClient> {
  stage = await Stage.open({}, startProxy);
  return new StageClient(stage, 'HTTP/1.1', '8');
}

test('answers that had come before the proxy was killed are given to the clients that come back', async () => {
  const client = await open();
  const uploads = [];
  for (const answer of ANSWERS) {
    const what = { target: `/killed/${answer.status}?a=b`, answer, bytes: randomBytes(50_000, answer.status) };
    const { lost, letAnswer } = await loseAnswer(client, what);
    letAnswer();
    await lost.expectAnswer(await lost.repeatEnd(), answer);
    uploads.push({ lost, answer });
  }
  await stage.restart();
  for (const { lost, answer } of uploads) {
    if (isGood(answer)) await lost.expectComplete();
    else await lost.expectHeldBack({ answered: true });
    await lost.expectAnswer(await lost.repeatEnd(), answer);
    await lost.expectAnswer(await lost.repeatNothing(), answer);
    lost.expectRequests(1);
  }
});

test('a PUT in delivery when the proxy was killed is delivered again', async () => {
  const client = await open();
  const what = { target: '/killed/put', method: 'PUT', answer: ANSWERS[1]!, bytes: randomBytes(50_000) };
  const { lost, letAnswer } = await loseAnswer(client, what);
  await stage.restart();
  letAnswer();
  await stage.requestsWhole('/killed/put', 2);
  await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
  lost.expectRequests(2);
  await lost.expectComplete();
});

test('a POST in delivery when the proxy was killed is sent again only when its client knows of it and asks for it', async () => {
  const client = await open();
  const what = { target: '/killed/post', answer: ANSWERS[1]!, bytes: randomBytes(50_000) };
  const { lost, letAnswer } = await loseAnswer(client, what);
  await stage.restart();
  letAnswer();
  await until(() => stage.app.log.some(({ phase }) => phase === 'undelivered'), 'the upload to be given up');
  await lost.expectHeldBack({ answered: false, isUnknown: true });
  await lost.expectUndelivered(await lost.repeatEnd());
  // It asks as one does that lost the response: it is told once more.
  await lost.expectHeldBack({ answered: false, isUnknown: true });
  await lost.expectUndelivered(await lost.repeatEnd());
  lost.expectRequests(1);
  await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
  lost.expectRequests(2);
  await lost.expectComplete();
});

test('a client that waits while the proxy is killed gets the answer when it comes back', async () => {
  const client = await open();
  const what = { target: '/killed/waiting', method: 'PUT', answer: ANSWERS[0]!, bytes: randomBytes(50_000) };
  const { lost, letAnswer } = await loseAnswer(client, what);
  const waiting = await lost.repeatEnd();
  await lost.expectHeldBack({ answered: false });
  await stage.restart();
  await expect(waiting.readFinal()).rejects.toThrow('connection closed');
  letAnswer();
  await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[0]!);
  lost.expectRequests(2);
});
