import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { connectH2 } from '../support/h2-client.js';
import type { Transport } from '../support/open-request.js';
import { connect } from '../support/raw-client.js';
import { clientDialect, createUpload, creationLines, DIALECTS, type Send } from '../support/resumable-client.js';
import { Stage } from '../support/stage.js';
import { randomBytes, sha256 } from '../support/temporary.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
});

/** Everything a client may do, one request after the other on one connection. */
async function playAll(send: Send, transport: Transport): Promise<void> {
  for (const [number, name] of DIALECTS.entries()) {
    const dialect = clientDialect(name);
    const target = `/one-connection/${name}?over=${encodeURIComponent(transport)}`;
    const bytes = randomBytes(200_000 + number, number + 1);
    const upload = await createUpload(dialect, send, { method: 'POST', target, body: bytes.subarray(0, 1000) });
    const refused = await upload.append(bytes.subarray(1000), { offset: 999, complete: true });
    expect(refused.status).toBe(409);
    expect((await upload.finish(bytes, 70_000)).status).toBe(200);
    expect(await upload.offset()).toBe(bytes.length);
    expect((await upload.cancel()).status).toBe(204);
    expect((await upload.retrieve()).status).toBe(404);
    const plain = await send({ method: 'PUT', target: `${target}&plain`, body: 'plain' });
    expect(plain.body.toString()).toBe('ok');
    const headers = creationLines(dialect, { complete: true });
    const whole = await send({ method: 'POST', target: `${target}&whole`, headers, body: bytes });
    expect(whole.header('Upload-Offset')).toBe(`${bytes.length}`);
    for (const asked of [target, `${target}&whole`])
      expect(stage.requestsFor(asked)).toMatchObject([{ method: 'POST', sha256: sha256(bytes) }]);
  }
}

test('one HTTP/1.1 connection serves uploads of every dialect, refusals and ordinary requests in a row', async () => {
  const client = await connect(stage.app.url);
  await playAll((request) => client.request(request), 'HTTP/1.1');
  expect(client.socket.readableEnded).toBe(false);
  client.destroy();
});

test('one HTTP/2 connection serves them too', async () => {
  const client = await connectH2(stage.app.url);
  await playAll((request) => client.request(request), 'HTTP/2');
  expect(client.session.destroyed).toBe(false);
  await client.close();
});

test('one HTTP/2 connection carries many uploads at the same time', async () => {
  const client = await connectH2(stage.app.url);
  const uploads = Array.from({ length: 20 }, async (_, number) => {
    const dialect = clientDialect(DIALECTS[number % DIALECTS.length]!);
    const target = `/at-once/${number}`;
    const bytes = randomBytes(300_000, number + 1);
    const request = { method: 'POST', target, headers: creationLines(dialect, { complete: true }), body: bytes };
    const answer = await client.request(request);
    expect(answer.status).toBe(200);
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(bytes) }]);
  });
  await Promise.all(uploads);
  await client.close();
});
