import { buffer } from 'node:stream/consumers';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { EarlyAnswer } from '../../src/delivery/eager.js';
import type { Upload } from '../../src/model/upload.js';
import { newUpload } from '../contract/sample-upload.js';
import { DeliveryRoom } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { until, within } from '../support/temporary.js';

/** What an origin says long before it has all, longer than what is shown only when it is recorded. */
const REFUSAL = Buffer.alloc(300_000, 'no');
const BEGUN = 200_000;

let origin: RawOrigin;
let room: DeliveryRoom;
let goOn: () => void;

beforeEach(async () => {
  const gone = new Promise<void>((resolve) => (goOn = resolve));
  origin = await startRawOrigin(async (exchange) => {
    await exchange.write(`HTTP/1.1 413 Too Large\r\nContent-Length: ${REFUSAL.length}\r\n\r\n`);
    await exchange.write(REFUSAL.subarray(0, BEGUN));
    await gone;
    await exchange.write(REFUSAL.subarray(BEGUN));
  });
  room = await DeliveryRoom.open(origin.url, {
    rules: { mode: 'eager', eager: { unknownLength: 'chunked', idleMs: 20_000 } },
  });
});
afterEach(async () => {
  await room.close();
  await origin.close();
});

/** An upload of which the first bytes are there. */
async function begun(): Promise<Upload> {
  const { id, expiresAt } = await room.store.create(newUpload({ length: 1_000_000 }));
  const writer = await room.spool.create(id, 'first');
  await writer.write([Buffer.from('hello')]);
  await writer.close();
  const chunk = { name: 'first', start: 0, size: 5 };
  return (await room.store.commit(id, { token: await room.store.nextToken(id), chunk, expiresAt })) as Upload;
}

/** The beginning of a refusal that is shown while it comes in. */
async function shown(upload: Upload): Promise<EarlyAnswer> {
  const feed = room.delivery.startEager(upload)!;
  feed.onCommitted(upload);
  await until(() => feed.answeredEarly.aborted, 'the beginning of the refusal');
  return feed.takeEarlyAnswer()!;
}

function bodyOf({ answer }: EarlyAnswer): Promise<Buffer> {
  return buffer(Readable.from(answer.body));
}

test('a refusal that is shown comes to its end although another process has cancelled the upload', async () => {
  const upload = await begun();
  const reading = bodyOf(await shown(upload));
  await room.store.cancel(upload.id);
  goOn();
  expect((await within(reading, 'the end of the refusal')).equals(REFUSAL)).toBe(true);
});

test('a refusal that is shown is cut when it cannot be kept, the upload having ended otherwise', async () => {
  const upload = await begun();
  const reading = bodyOf(await shown(upload));
  await room.store.invalidate(upload.id, await room.store.nextToken(upload.id));
  goOn();
  await expect(within(reading, 'the end of the refusal')).rejects.toThrow(
    'the upload has continued without this answer',
  );
});
