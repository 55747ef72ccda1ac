import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DirectorySync } from '../fs/directory-sync.js';
import { hasCode, link, rename, stat, storageFault, withDraft, writeFully } from '../fs/files.js';
import { type SealingKey, sealingKey } from './key-ring.js';

/** The name of the key file in a data directory. */
export const KEY_FILE = 'secrets.keys';

/**
 * A file of keys, one a line, of which the first seals. It changes in one step and only its owner can read it, so a
 * process that is killed leaves the old keys or the new ones.
 */
export class KeyFile {
  constructor(readonly path: string) {}

  /** The keys of the file; none if there is no such file. */
  read(): SealingKey[] {
    return this.texts().map((text) => sealingKey(text));
  }

  /** When the file was changed last, in milliseconds since the epoch. */
  async changedAt(): Promise<number> {
    return (await stat(this.path)).mtimeMs;
  }

  /** Makes the file with one key, unless it exists. Of several processes one makes it. */
  async create(): Promise<void> {
    try {
      await this.writeDraft([newKey()], (draft) => link(draft, this.path));
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw storageFault(error, `the key file ${this.path} cannot be made`);
    }
  }

  /** Puts a new key in front. */
  async add(): Promise<void> {
    await this.replace([newKey(), ...this.texts()]);
  }

  /** Keeps the first key only, if that is still this one. */
  async dropOthers(id: string): Promise<void> {
    const [first, ...others] = this.texts();
    if (first !== undefined && others.length > 0 && sealingKey(first).id === id) await this.replace([first]);
  }

  private async replace(texts: readonly string[]): Promise<void> {
    try {
      await this.writeDraft(texts, (draft) => rename(draft, this.path));
    } catch (error) {
      throw storageFault(error, `the key file ${this.path} cannot be written`);
    }
  }

  private async writeDraft(texts: readonly string[], name: (draft: string) => Promise<void>): Promise<void> {
    const draft = `${this.path}-${randomUUID()}`;
    await withDraft(draft, async () => {
      await writeFully(draft, Buffer.from(texts.map((text) => `${text}\n`).join('')), true);
      await name(draft);
      await new DirectorySync('group').sync(dirname(this.path));
    });
  }

  private texts(): string[] {
    try {
      return readFileSync(this.path, 'utf8')
        .split(/\r?\n/)
        .filter((line) => line !== '');
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return [];
      throw storageFault(error, `the key file ${this.path} cannot be read`);
    }
  }
}

function newKey(): string {
  return randomBytes(32).toString('base64url');
}
