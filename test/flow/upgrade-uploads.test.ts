import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connect } from '../support/raw-client.js';
import { Stage } from '../support/stage.js';
import { openTunnel } from '../support/tunnel-client.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(() => stage.close());

test.each(['/.uploads/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', '/x/%2e%2e/.uploads/a/status', '/.uploads/'])(
  'a request to change protocols at %s is refused, and no origin hears of the upload',
  async (target) => {
    const client = await openTunnel(stage.app.url, '', target);
    const response = await client.readFinal();
    expect(response.status).toBe(400);
    expect(response.header('content-type')).toBe('application/problem+json');
    await client.ended();
    expect(stage.origin.requests).toEqual([]);
  },
);

test('a request to change protocols with a malformed head is told what is wrong with it', async () => {
  const client = await connect(stage.app.url);
  await client.send('GET /chat HTTP/1.1\r\nHost: %zz\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  const response = await client.readFinal();
  expect(response.status).toBe(400);
  expect(JSON.parse(response.body.toString())).toMatchObject({ detail: 'The Host is malformed.' });
  await client.ended();
});
