import { join } from 'node:path';
import { close, type DirectoryEntry, fstat, lstat, open, read } from '../disk/files.js';
import { isLockBegun, lockRemains, parseOwner } from '../disk/lock-text.js';
import { isNodeName, NODE_DRAFT } from '../disk/node-name.js';
import { isGivenId } from '../disk/safe-name.js';
import { hasCode } from '../disk/storage-fault.js';

/**
 * How far an entry is one of this program. `ours`: nobody else gives this content to this name. `maybe`: its name and kind
 * are ours, which proves nothing. `unlike`: it has such a name, but not the content. `misshapen`: it has such a name, but is
 * no file where a file belongs, or no directory. `system`: file systems and the like put it there. `foreign`: anything else.
 */
export type Likeness = 'ours' | 'maybe' | 'unlike' | 'misshapen' | 'system' | 'foreign';

interface Form {
  readonly name: RegExp;
  readonly kind: 'file' | 'directory';
  /** What the beginning of a file shows; without it the name has to do. */
  readonly likeness?: (text: string) => Likeness;
}

const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';

/** Drafts of the two marks. */
export const MARK_DRAFT = new RegExp(`^rufh-proxy\\.json-${UUID}$`);
export const IDENTITY_DRAFT = new RegExp(`^\\.store-${UUID}$`);

const STORE_ID = new RegExp(`^${UUID}\\s*$`);
const LAST_START = /^\{"number":\d+\}\s*$/;

/** Names that file systems, desktops and version control give by themselves: with nothing else, a directory is empty. */
export const SYSTEM_NAMES: readonly string[] = [
  ...['lost+found', 'aquota.user', 'aquota.group'],
  ...['.snapshot', '.snapshots', '~snapshot', '~snapshots', '.zfs', '.nfs…'],
  ...['.DS_Store', '._.DS_Store', '.gitkeep', '.keep'],
];

/** `…` stands for a number in hexadecimal digits. */
const OF_SYSTEMS = new RegExp(
  `^(${SYSTEM_NAMES.map((name) => name.replace(/[.+]/g, '\\$&').replace('…', '[0-9a-f]+')).join('|')})$`,
);

const MARKS: readonly Form[] = [
  { name: /^\.store$/, kind: 'file', likeness: oursIf((text) => STORE_ID.test(text)) },
  { name: IDENTITY_DRAFT, kind: 'file', likeness: oursIf((text) => STORE_ID.test(text)) },
];

/** Every name that this program gives, also to what a crash leaves behind, by the part of the directory it is in. */
const FORMS = {
  beside: [
    { name: /^(uploads|spool)$/, kind: 'directory' },
    { name: /^lock$/, kind: 'file', likeness: likenessOfLock },
    { name: lockRemains('lock'), kind: 'file', likeness: likenessOfLock },
    { name: /^last-start\.json(\.tmp)?$/, kind: 'file', likeness: oursIf((text) => LAST_START.test(text)) },
    { name: /^node$/, kind: 'file', likeness: (text) => (isNodeName(text.trim()) ? 'ours' : 'unlike') },
    { name: NODE_DRAFT, kind: 'file', likeness: oursIf((text) => isNodeName(text.trim())) },
    { name: new RegExp(`^\\.probe-${UUID}$`), kind: 'directory' },
    // The mark itself is read by `markIn`, which refuses what is none.
    { name: /^rufh-proxy\.json$/, kind: 'file' },
    { name: MARK_DRAFT, kind: 'file', likeness: oursIf((text) => text.startsWith('{"format":')) },
  ],
  uploads: [...MARKS, { name: /^[\w-]{32}\.(log|log\.tmp|answer|damaged)$/, kind: 'file' }],
  spool: [...MARKS, { name: /^\.in-use$/, kind: 'file' }, { name: /^(\.taken-over|[\w-]{32})$/, kind: 'directory' }],
} as const satisfies Record<string, readonly Form[]>;

export type Part = keyof typeof FORMS;

/** Longer files are none of those whose whole text is looked at. */
const MOST_BYTES = 4096;

/** Looks at one entry of a part of the directory. Fails when the disk does. */
export async function likenessOf(part: Part, directory: string, entry: DirectoryEntry): Promise<Likeness> {
  const forms: readonly Form[] = FORMS[part];
  const form = forms.find(({ name }) => name.test(entry.name));
  if (!form) return OF_SYSTEMS.test(entry.name) ? 'system' : 'foreign';
  if (form.kind === 'directory' ? !entry.isDirectory() : !entry.isFile()) return 'misshapen';
  if (!form.likeness) return 'maybe';
  const text = await textOf(join(directory, entry.name));
  return text === undefined ? 'unlike' : form.likeness(text);
}

/** Whether a file of the records is one by its content too, and not only by its name. Nobody can say it of one that cannot be read. */
export async function isRecord(uploads: string, name: string): Promise<boolean> {
  const id = name.slice(0, -'.log'.length);
  if (!name.endsWith('.log') || !isGivenId(id)) return false;
  const head = await headOf(join(uploads, name)).catch(() => undefined);
  return head !== undefined && RECORD.test(head) && head.includes(`"${id}"`);
}

const RECORD = /^[0-9a-f]{8} \{"format":\d+,"upload":\{/;

/** The text of a small regular file; undefined when it is larger. Only a regular one is opened: a pipe has nobody who writes. */
export async function textOf(path: string): Promise<string | undefined> {
  try {
    const found = await lstat(path);
    return found.isFile() && found.size <= MOST_BYTES ? await headOf(path) : undefined;
  } catch (error) {
    // Another process has removed it since.
    if (hasCode(error, 'ENOENT')) return '';
    throw error;
  }
}

async function headOf(path: string): Promise<string> {
  const fd = await open(path, 'r');
  try {
    const bytes = Buffer.alloc(Math.min((await fstat(fd)).size, MOST_BYTES));
    let at = 0;
    for (let got = -1; at < bytes.length && got !== 0; at += got) got = await read(fd, bytes.subarray(at), at);
    return bytes.toString('utf8', 0, at);
  } finally {
    await close(fd);
  }
}

/** A full disk, or a power cut where nothing is synced, leaves an empty one. */
function oursIf(isOurs: (text: string) => boolean): (text: string) => Likeness {
  return (text) => (isOurs(text) ? 'ours' : text === '' ? 'maybe' : 'unlike');
}

function likenessOfLock(text: string): Likeness {
  if (parseOwner(text)) return 'ours';
  return isLockBegun(text) ? 'maybe' : 'unlike';
}
