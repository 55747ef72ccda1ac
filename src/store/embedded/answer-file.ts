import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import type { DirectorySync } from '../../disk/directory-sync.js';
import { patiently, readWhole, unlink, writeWhole } from '../../disk/files.js';
import type { Gate } from '../../disk/gate.js';
import { hasCode, storageFault } from '../../disk/storage-fault.js';
import { Fault } from '../../model/fault.js';

/** Keeps the body of an answer beside its record, so that memory does not hold it. Gives its checksum. */
export async function writeAnswer(path: string, body: Uint8Array, names: DirectorySync): Promise<number> {
  const since = names.failures;
  try {
    await writeWhole(path, body, names.isDurable);
    await names.sync(dirname(path), since);
    return crc32(body);
  } catch (error) {
    await unlink(path).catch(() => undefined);
    throw storageFault(error, 'an answer cannot be kept');
  }
}

/** The body again, or a fault when it is not what was written: no answer is better than a wrong one. */
export async function readAnswer(path: string, crc: number | undefined, gate: Gate): Promise<Uint8Array> {
  try {
    const body = await patiently(() => gate.run(() => readWhole(path)));
    if (crc32(body) !== crc) throw new Fault('BYTES_LOST', 'a kept answer is damaged', false);
    return body;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) throw new Fault('BYTES_LOST', 'a kept answer is missing', false);
    throw storageFault(error, 'a kept answer cannot be read');
  }
}

export async function removeAnswer(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw storageFault(error, 'a kept answer cannot be removed');
  }
}
