import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import { KEY_FILE, KeyFile } from '../secrets/key-file.js';
import { KeyRing, sealingKey } from '../secrets/key-ring.js';
import { UploadSecrets } from '../secrets/upload-secrets.js';
import { KEYS_REFRESH_MS } from '../uploads/key-rotation.js';
import type { Closer } from './storage.js';

/** The keys of the configuration, and the file that a rotation can change. */
export interface OpenedSecrets {
  readonly ring: KeyRing;
  readonly secrets: UploadSecrets;
  /** Missing if the keys are not in a file that all processes share. */
  readonly keyFile?: KeyFile;
}

const RETRY_MS = 5000;

/**
 * Opens the keys, and makes one where none is configured. Keys of all sources open values, so that the source can be
 * changed while uploads are stored. The data directory must belong to this process already.
 */
export async function openSecrets(
  config: Config,
  { log, closers }: { readonly log: Log; readonly closers: Closer[] },
): Promise<OpenedSecrets> {
  const { data, cluster, uploads } = config;
  const { keep, headers, keys, keysFile } = config.secrets;
  const configured = keysFile === undefined ? undefined : new KeyFile(keysFile);
  const own = new KeyFile(join(data, KEY_FILE));
  const isOwnUsed = keys.length === 0 && !configured && !cluster;
  if (isOwnUsed) await createKey(own, log, closers);
  const given = keys.map((text) => sealingKey(text));
  const shared = cluster ? [sealingKey(cluster.secret, 'cluster')] : [];
  const ring = new KeyRing(() => [...given, ...(configured?.read() ?? []), ...shared, ...own.read()]);
  refreshKeys({ ring, own: isOwnUsed ? own : undefined }, log, closers);
  // Nodes with disks of their own have a file each: a key in only one of them would be unknown to the others.
  const keyFile = isOwnUsed ? own : cluster ? undefined : configured;
  const secrets = new UploadSecrets({ ring, fields: headers, keep, uploadsPath: uploads.path });
  return { ring, secrets, ...(keyFile && { keyFile }) };
}

/**
 * Other processes may change the file; without this they would go on to use a key that is about to be dropped. The
 * proxy's own file is written again if somebody removes it, because new records would be unreadable after a restart.
 */
function refreshKeys(
  { ring, own }: { readonly ring: KeyRing; readonly own: KeyFile | undefined },
  log: Log,
  closers: Closer[],
): void {
  const refresh = async (): Promise<void> => {
    try {
      if (own?.isGone()) {
        log.error({}, `the keys for credentials are gone from ${own.path}: they are written again`);
        await own.create();
      }
      ring.reload();
    } catch (error) {
      log.error({ err: error }, 'the keys for credentials cannot be read: the known ones are used');
    }
  };
  const timer = setInterval(() => void refresh(), KEYS_REFRESH_MS).unref();
  closers.push(() => Promise.resolve(clearInterval(timer)));
}

/** A full disk does not prevent a start, because ending uploads makes room: the key is made as soon as there is some. */
async function createKey(file: KeyFile, log: Log, closers: Closer[]): Promise<void> {
  try {
    await file.create();
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'STORAGE_FULL') throw error;
    log.error({ err: error }, 'no key can be made for credentials: uploads that have some are refused');
    const timer = setInterval(() => void file.create().then(stop, () => undefined), RETRY_MS).unref();
    const stop = (): void => clearInterval(timer);
    closers.push(() => Promise.resolve(stop()));
  }
}
