import { afterEach, expect, test } from '@jest/globals';
import { FlowClient } from '../support/flow-client.js';
import { ANSWERS, isGood, loseAnswer } from '../support/lost-answer.js';
import { startProxy } from '../support/proxy-process.js';
import { randomBytes, until } from '../support/temporary.js';
import { TestProxy } from '../support/test-proxy.js';

let proxy: TestProxy;

afterEach(async () => {
  await proxy.close();
});

/** The built binary, which `restart` kills with SIGKILL. */
async function open(): Promise<FlowClient> {
  proxy = await TestProxy.open({}, startProxy);
  return new FlowClient(proxy, 'HTTP/1.1', '8');
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
  await proxy.restart();
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
  await proxy.restart();
  letAnswer();
  await proxy.requestsWhole('/killed/put', 2);
  await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
  lost.expectRequests(2);
  await lost.expectComplete();
});

test('a POST in delivery when the proxy was killed is sent again only when its client knows of it and asks for it', async () => {
  const client = await open();
  const what = { target: '/killed/post', answer: ANSWERS[1]!, bytes: randomBytes(50_000) };
  const { lost, letAnswer } = await loseAnswer(client, what);
  await proxy.restart();
  letAnswer();
  await until(() => proxy.app.log.some(({ phase }) => phase === 'undelivered'), 'the upload to be given up');
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
  await proxy.restart();
  await expect(waiting.readFinal()).rejects.toThrow('connection closed');
  letAnswer();
  await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[0]!);
  lost.expectRequests(2);
});
