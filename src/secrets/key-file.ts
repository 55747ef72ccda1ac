import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { DirectorySync } from '../fs/directory-sync.js';
import { hasCode, link, removeDrafts, rename, stat, storageFault, withDraft, writeFully } from '../fs/files.js';
import { type SealingKey, sealingKey } from './key-ring.js';

/** The name of the key file in a data directory. */
export const KEY_FILE = 'secrets.keys';

const UUID = '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}';

/**
 * A file of keys, one a line, of which the first seals. It changes in one step and only its owner can read it, so a
 * process that is killed leaves the old keys or the new ones.
 */
export class KeyFile {
  /** The lines as they were read or written last, for a file that somebody removes. */
  private known: readonly string[] = [];
  private lastChange: Promise<void> = Promise.resolve();

  constructor(readonly path: string) {}

  /** The keys of the file; none if there is no such file. */
  read(): SealingKey[] {
    return this.texts().map((text) => sealingKey(text));
  }

  /** When the file was changed last, in milliseconds since the epoch. */
  async changedAt(): Promise<number> {
    return (await stat(this.path)).mtimeMs;
  }

  /** Whether the file had keys that it has no more. */
  isGone(): boolean {
    return this.known.length > 0 && this.texts().length === 0;
  }

  /**
   * Makes the file with one key, or with those that it had, unless it exists. Of several processes one makes it. A file
   * that exists is durable afterwards, too: the process that made it may have been killed before it synced the name.
   */
  async create(): Promise<void> {
    try {
      await this.removeOldDrafts();
      if (this.texts().length > 0) return await this.syncName();
      const texts = this.known.length > 0 ? this.known : [newKey()];
      await this.writeDraft(texts, (draft) => link(draft, this.path));
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw storageFault(error, `the key file ${this.path} cannot be made`);
      await this.syncName();
    }
  }

  /** Puts a new key in front. */
  add(): Promise<void> {
    return this.change((texts) => [newKey(), ...texts]);
  }

  /** Keeps the first key only, if that is still this one. */
  dropOthers(id: string): Promise<void> {
    return this.change((texts) => {
      const [first, ...others] = texts;
      return first !== undefined && others.length > 0 && sealingKey(first).id === id ? [first] : texts;
    });
  }

  /** Makes one change after the other: two at the same time would lose the key of one of them. */
  private change(next: (texts: readonly string[]) => readonly string[]): Promise<void> {
    const changed = this.lastChange.then(() => this.replace(next));
    this.lastChange = changed.catch(() => undefined);
    return changed;
  }

  private async replace(next: (texts: readonly string[]) => readonly string[]): Promise<void> {
    try {
      await this.removeOldDrafts();
      while (!(await this.tryToReplace(next)));
    } catch (error) {
      throw storageFault(error, `the key file ${this.path} cannot be written`);
    }
  }

  /** False if another process has changed the file meanwhile. */
  private async tryToReplace(next: (texts: readonly string[]) => readonly string[]): Promise<boolean> {
    const before = this.newestTexts();
    const after = next(before);
    if (after === before) return true;
    return this.writeDraft(after, async (draft, file) => {
      if (this.newestTexts().join() !== before.join()) return false;
      await rename(draft, file);
      return true;
    });
  }

  private async writeDraft<T>(texts: readonly string[], name: (draft: string, file: string) => Promise<T>): Promise<T> {
    const file = this.realPath();
    const draft = `${file}-${randomUUID()}`;
    return withDraft(draft, async () => {
      await writeFully(draft, Buffer.from(texts.map((text) => `${text}\n`).join('')), true);
      const result = await name(draft, file);
      await this.syncName();
      return result;
    });
  }

  /** A draft of a killed process has keys that may have been dropped since. */
  private removeOldDrafts(): Promise<void> {
    const file = this.realPath();
    return removeDrafts(dirname(file), new RegExp(`^${basename(file).replace(/\W/g, '\\$&')}-${UUID}$`));
  }

  private syncName(): Promise<void> {
    return new DirectorySync('group').sync(dirname(this.realPath()));
  }

  /** Other processes may have the same file by other links, so the file is replaced and not its link. */
  private realPath(): string {
    try {
      return realpathSync(this.path);
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return this.path;
      throw error;
    }
  }

  private newestTexts(): readonly string[] {
    const texts = this.texts();
    return texts.length > 0 ? texts : this.known;
  }

  private texts(): readonly string[] {
    try {
      const texts = readFileSync(this.path, 'utf8')
        .split(/\r?\n/)
        .filter((line) => line !== '');
      if (texts.length > 0) this.known = texts;
      return texts;
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return [];
      throw storageFault(error, `the key file ${this.path} cannot be read`);
    }
  }
}

function newKey(): string {
  return randomBytes(32).toString('base64url');
}
