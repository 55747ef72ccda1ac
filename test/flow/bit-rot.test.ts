import { open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { BLOCK_BYTES } from '../../src/spool/block-sums.js';
import { startTestApp } from '../support/app.js';
import { gate } from '../support/lost-answer.js';
import { TRANSPORTS } from '../support/open-request.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import { completenessValue, DIALECTS, type ResumableUpload } from '../support/resumable-client.js';
import { StageClient } from '../support/stage-client.js';
import { Stage } from '../support/stage.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire-response.js';

let stage: Stage;
let redis: RedisServer | undefined;

afterEach(async () => {
  await stage.close();
  await redis?.stop();
  redis = undefined;
});

const BYTES = randomBytes(1_300_000, 6);
const { length } = BYTES;
const CUT = 1_200_000;
const LOST = 'Stored bytes of this upload were lost or damaged, and it was given up. Begin a new one.';

/** Changes one byte of a file of an upload. */
async function rot(upload: ResumableUpload, kind: 'chunk' | 'answer', at: number): Promise<void> {
  const file = await open(await fileOf(upload, kind), 'r+');
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.of(buffer[0]! ^ 1), 0, 1, at);
  await file.close();
}

async function fileOf({ target }: ResumableUpload, kind: string): Promise<string> {
  const directory = join(stage.app.data, 'spool', target.split('/').at(-1)!);
  const names = (await readdir(directory)).filter((name) => name.startsWith(kind)).sort();
  return join(directory, names[0]!);
}

/** A request of the origin's that was sent to its end has the right bytes; one that was not is visibly cut. */
function expectNothingWrong(target: string): void {
  const whole = stage.requestsFor(target).filter(({ ended }) => ended !== 'cut');
  expect(whole.map(({ sha256: sum }) => sum)).toEqual(whole.map(() => sha256(BYTES)));
}

function expectLost(client: StageClient, response: WireResponse): void {
  expect([404, 410]).toContain(response.status);
  expect(response.header('Content-Type')).toBe('application/problem+json');
  expect(JSON.parse(response.body.toString())).toMatchObject({ status: response.status, detail: LOST });
  const { completeness } = client.dialect;
  expect(response.header(completeness)).toBe(completenessValue(client.dialect, false));
}

const GATE = `delivery: { gate: { command: ["/bin/sh", "-c", "cat > /dev/null"] } }`;
const MULTIPART = 'delivery: { framing: { type: multipart, field: file } }';
const MODES: Record<string, string> = {
  'from the spool': '',
  eagerly: 'delivery: { mode: eager }',
  'past a gate': GATE,
  'as a form': MULTIPART,
};

/** Of the first chunk: two full blocks and their sums, then what is left. */
const PLACES = { 'a full block': BLOCK_BYTES + 5000, 'a checksum': BLOCK_BYTES + 1, 'the last block': CUT - 1000 };

describe.each(TRANSPORTS)('over %s', (transport) => {
  test.each(Object.keys(MODES))('a changed byte ends an upload that is delivered %s, wherever it is', async (mode) => {
    stage = await Stage.open({ config: MODES[mode] });
    for (const [place, at] of Object.entries(PLACES)) {
      const client = new StageClient(stage, transport, '10');
      const target = `/rot/${place.replaceAll(' ', '-')}`;
      const upload = await client.place({ target, length });
      await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
      await rot(upload, 'chunk', at);
      const refused = await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true });
      if (mode !== 'eagerly' || refused.status >= 400) expectLost(client, refused);
      expect((await upload.retrieve()).status).toBe(refused.status >= 400 ? 410 : 204);
      if (mode !== 'as a form') expectNothingWrong(target);
      else expect(stage.requestsFor(target).filter(({ ended }) => ended !== 'cut')).toEqual([]);
    }
    const lines = stage.app.log.filter(({ msg }) => msg === 'an upload whose bytes are lost is given up');
    if (mode !== 'eagerly') expect(lines).toHaveLength(3);
  });

  test('a kept answer that is damaged or missing is told with a status, and never given', async () => {
    stage = await Stage.open({ config: 'delivery: { keep_answer_size: 1KiB }' });
    const client = new StageClient(stage, transport, '10');
    for (const damage of ['changed', 'missing'] as const)
      for (const size of [100, 3000]) {
        const target = `/answer/${damage}/${size}`;
        stage.answer(target, () => ({ status: 201, headers: [], body: 'x'.repeat(size) }));
        const upload = await client.place({ target, length });
        expect((await upload.append(BYTES, { offset: 0, complete: true })).status).toBe(201);
        const record = join(stage.app.data, 'uploads', `${upload.target.split('/').at(-1)!}.answer`);
        const path = size > 1024 ? await fileOf(upload, 'answer') : record;
        if (damage === 'missing') await rm(path);
        else {
          const file = await open(path, 'r+');
          await file.write(Buffer.from('y'), 0, 1, 50);
          await file.close();
        }
        const told = await upload.append(BYTES.subarray(-1), { offset: length - 1, complete: true });
        expect(told.status).toBe(500);
        expect([told.header('Upload-Complete'), told.header('Upload-Offset')]).toEqual(['?1', `${length}`]);
        expect(JSON.parse(told.body.toString())).toMatchObject({
          status: 500,
          detail: expect.stringContaining('The upload was delivered, and its target answered 201'),
        });
        const page = await client.send({ method: 'GET', target: `${upload.target}/answer` });
        expect([page.status, page.header('Content-Type')]).toEqual([500, 'application/problem+json']);
        expect(stage.requestsFor(target)).toHaveLength(1);
      }
    const lines = stage.app.log.filter(({ msg }) => /^a kept answer is lost/.test(String(msg)));
    expect(lines).toHaveLength(4);
  });

  test.each(['its page', 'the end once more'])(
    'a kept answer is looked through only as long as the client that asks for it, by %s, is there',
    async (by) => {
      stage = await Stage.open({ config: 'delivery: { keep_answer_size: 1KiB }' }, startTestApp);
      const client = new StageClient(stage, transport, '10');
      stage.answer('/long', { status: 201, body: 'x'.repeat(3 * 1024 * 1024) });
      const upload = await client.place({ target: '/long', length: 5 });
      expect((await upload.append('hello', { offset: 0, complete: true })).status).toBe(201);
      let reads = 0;
      const { opened: over, open: end } = gate();
      useFileSystem({
        ...nodeFileSystem,
        readv: async (...given) => (reads++, await over, await nodeFileSystem.readv(...given)),
      });
      try {
        const page = { method: 'GET', target: `${upload.target}/answer`, headers: [] };
        const request =
          by === 'its page'
            ? await stage.begin(transport, page)
            : await client.append(upload, { offset: 5, complete: true, bytes: 0 });
        await request.end();
        await until(() => reads > 0, 'the first block to be read');
        const ended = stage.app.log.length;
        request.leave('reset');
        // The disk has given nothing yet.
        await until(() => stage.app.log.slice(ended).some(({ msg }) => msg === 'request'), 'the end of the request');
        await request.close();
      } finally {
        end();
        useFileSystem();
      }
      expect(reads).toBe(1);
      expect((await upload.append('', { offset: 5, complete: true })).body).toHaveLength(3 * 1024 * 1024);
      expect(stage.app.log.filter(({ level }) => level === 'error')).toEqual([]);
    },
  );
});

test.each(DIALECTS)('a client of version %s hears that its upload was lost', async (interop) => {
  stage = await Stage.open();
  const client = new StageClient(stage, 'HTTP/1.1', interop);
  const upload = await client.place({ target: '/rot', length });
  await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
  await rot(upload, 'chunk', 5);
  expectLost(client, await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
  expectNothingWrong('/rot');
});

test('with Redis, bytes and kept answers are held to their checksums as well', async () => {
  redis = await startRedis();
  const config = `store: { type: redis, url: 'redis://127.0.0.1:${redis.port}' }\ndelivery: { keep_answer_size: 1KiB }`;
  stage = await Stage.open({ config });
  const client = new StageClient(stage, 'HTTP/1.1', '10');
  const upload = await client.place({ target: '/rot', length });
  await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
  await rot(upload, 'chunk', 199_000);
  expectLost(client, await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
  expectLost(client, await upload.append(BYTES.subarray(-1), { offset: length - 1, complete: true }));
  expectNothingWrong('/rot');
  stage.answer('/well', () => ({ status: 201, headers: [], body: 'x'.repeat(3000) }));
  const well = await client.place({ target: '/well', length });
  await well.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
  expect((await well.append(BYTES.subarray(CUT), { offset: CUT, complete: true })).status).toBe(201);
  expectNothingWrong('/well');
  await rot(well, 'answer', 5);
  expect((await well.append(BYTES.subarray(-1), { offset: length - 1, complete: true })).status).toBe(500);
});
