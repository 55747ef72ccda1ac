import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { writePeerPath } from '../../src/cluster/peer-files.js';
import { PEER_FIELD } from '../../src/proxy/peer-auth.js';
import { MoveStage } from '../support/move-stage.js';
import { connect, type RawClient } from '../support/raw-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

const BYTES = randomBytes(300_000);

let stage: MoveStage;
beforeEach(async () => {
  stage = await MoveStage.open(BYTES);
});
afterEach(() => stage.close());

/** A file on its way whose sender vanished without a word: the other node still waits for the rest. */
async function halfOf(id: string, name: string, size: number): Promise<RawClient> {
  const headers = [
    ['Host', new URL(stage.other.peerUrl).host],
    ['Content-Length', `${size}`],
  ] as const;
  const line = { method: 'PUT', target: writePeerPath({ id, name }), headers };
  const signed = stage.old.signature.sign({ kind: 'files', to: 'other' }, line);
  const client = await connect(stage.other.peerUrl);
  await client.sendHead(line.method, line.target, [...headers, [PEER_FIELD, signed]]);
  await client.send(BYTES.subarray(0, size / 2));
  await until(async () => (await stage.other.files()).length > 0, 'the beginning of the file');
  return client;
}

test('a file that never came to its end takes nothing with it that came after it', async () => {
  const path = await stage.uploadWith(1000);
  const [file] = await stage.old.files();
  const [id, name] = file!.split('/') as [string, string];
  let running = 0;
  stage.other.onFiles = async (_, take) => {
    running++;
    await take();
    running--;
  };
  const lost = await halfOf(id, name, 1000);
  await stage.done(stage.old.startMoving());
  expect(await stage.other.files()).toEqual([file]);
  lost.reset();
  await until(() => running === 0, 'the end of the file that was lost');
  expect(await stage.other.files()).toEqual([file]);
  expect((await stage.append(path, stage.other, 1000)).status).toBe(200);
  expect(stage.received('/files')).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
});
