import { join } from 'node:path';
import { close, type DirectoryEntry, fstat, hasCode, lstat, open, read } from '../fs/files.js';
import { isPartialLock, lockLeftoverPattern, parseOwner } from '../fs/lock-owner.js';
import { isNodeName, NODE_DRAFT } from '../fs/node-name.js';
import { Fault } from '../model/fault.js';
import { isGeneratedId } from '../model/upload-id.js';

/** The format of the data directory. Must be raised when earlier versions cannot read what this one writes. */
export const FORMAT = 1;

export type StoreKind = 'embedded' | 'redis';

/** The content of the file that identifies a data directory. */
export interface DirectoryMark {
  readonly format: number;
  readonly store: StoreKind;
  /** The id of the store, which `uploads/` and `spool/` contain too. */
  readonly id: string;
  /** False until `uploads/` and `spool/` contain the id. */
  readonly complete: boolean;
  /** A copy of the name in the file `node`; missing with the embedded store, and until a start has noted it. */
  readonly node?: string;
}

/** Whether one of the two subdirectories contains uploads. */
export type Contents = 'missing' | 'empty' | 'filled';

/** The state of a data directory. */
export interface DirectoryState {
  readonly path: string;
  /** Nodes on other machines use the directory too. */
  readonly isShared: boolean;
  readonly mark: DirectoryMark | undefined;
  /** The ids of the stores in the marks of `uploads/` and `spool/`. */
  readonly recordsMark: string | undefined;
  readonly spoolMark: string | undefined;
  /** The marks have the form that this program gives them. */
  readonly isRecordsMarkOurs: boolean;
  readonly isSpoolMarkOurs: boolean;
  readonly records: Contents;
  /** The content of at least one record was verified. Only checked when there is no mark. */
  readonly hasRecord: boolean;
  readonly spool: Contents;
  /** An earlier start has written down its number. */
  readonly wasStarted: boolean;
  /** There is a lock of this program; only its content shows whether its process is still running. */
  readonly hasLock: boolean;
  /**
   * The evidence that the file `node`, with the name of a node with Redis, is one of this program; undefined if there
   * is no such file.
   */
  readonly node: Evidence | undefined;
  /** The valid name in that file. */
  readonly nodeName: string | undefined;
  /** Some of the names of this program with the wrong kind of entry, such as a directory in place of a file. */
  readonly misshapen: readonly string[];
  /** Some of the names that this program does not give, or whose content it did not write. */
  readonly foreign: readonly string[];
}

/** Parses a mark; throws when it is invalid, or of a newer format. */
export function parseMark(text: string): DirectoryMark {
  const { format, store, id, complete, node } = parsed(text);
  if (typeof format === 'number' && format > FORMAT)
    throw refused(
      `the data directory was written in format ${format} by a newer version of this program, and this one knows format ` +
        `${FORMAT}: use that version, or choose another --data`,
    );
  if (
    format !== FORMAT ||
    (store !== 'embedded' && store !== 'redis') ||
    typeof id !== 'string' ||
    id === '' ||
    !isNameOrNone(node)
  )
    throw refused(
      'rufh-proxy.json in the data directory does not say what the directory is: restore it from a backup; if the ' +
        'rest of the directory is complete, remove that file',
    );
  return { format, store, id, complete: complete === true, ...(node !== undefined && { node }) };
}

function isNameOrNone(node: unknown): node is string | undefined {
  return node === undefined || (typeof node === 'string' && isNodeName(node));
}

function parsed(text: string): { readonly [Name in keyof DirectoryMark]?: unknown } {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    // The file is incomplete, or not ours.
    return {};
  }
}

/**
 * The reason why a start with this kind of store must not use the directory; undefined if it may.
 * Reasons: docs/decisions/0018.
 */
export function refusalOf(state: DirectoryState, store: StoreKind): string | undefined {
  const owner = storeKindOf(state);
  const besideForeign = owner === undefined ? undefined : refuseBesideForeign(state);
  if (besideForeign !== undefined) return besideForeign;
  if (owner !== undefined && owner !== store) return OTHER_STORE[store](state);
  if (owner === undefined) return refuseUnowned(state);
  return refuseMisshapen(state, store) ?? (store === 'embedded' ? refuseIncomplete(state) : refuseWrongNode(state));
}

/** The kind of store that has used the directory; undefined for none. Directories of earlier versions have no mark. */
function storeKindOf(state: DirectoryState): StoreKind | undefined {
  const { mark, records, hasRecord, wasStarted } = state;
  if (mark) return mark.store;
  if (state.isRecordsMarkOurs) return 'embedded';
  if (state.isSpoolMarkOurs || state.node === 'ours') return 'redis';
  return hasRecord || (wasStarted && records !== 'missing') ? 'embedded' : undefined;
}

const OTHER_STORE: Readonly<Record<StoreKind, (state: DirectoryState) => string>> = {
  embedded: ({ path }) =>
    `${path} belongs to nodes with Redis, and this start has the embedded store: give it their configuration (--config, ` +
    'with `store.type: redis`), or choose another --data. Nothing was changed',
  redis: ({ path }) =>
    `${path} belongs to the embedded store, and this start has \`store.type: redis\`: start it without that, or choose ` +
    'another --data. Nothing was changed',
};

/** Entries that a start with this store reads or writes, and that must be files. */
const USED_FILES: Readonly<Record<StoreKind, RegExp>> = { embedded: /^(?!node)/, redis: /^(?!last-start)/ };

function refuseMisshapen({ path, misshapen: names }: DirectoryState, store: StoreKind): string | undefined {
  const name = names.find((each) => USED_FILES[store].test(each));
  return name === undefined
    ? undefined
    : `${path}/${name} is not the kind of file that this program puts there: move it out of ${path}`;
}

/** Refuses a start that would give the node another name: all its uploads would belong to another node, and be lost. */
function refuseWrongNode({ path, isShared, mark, node, nodeName }: DirectoryState): string | undefined {
  const markedName = mark?.node;
  if (isShared) return undefined;
  if (markedName !== undefined && (node === undefined || node === 'unlike'))
    return (
      `${path}/node, the name of this node, is missing or damaged, and without it all uploads of this node would be lost. ` +
      `rufh-proxy.json beside it has the name: printf %s ${markedName} > ${path}/node`
    );
  if (markedName !== undefined && nodeName !== undefined && nodeName !== markedName)
    return (
      `${path}/node says that this node is ${nodeName}, and rufh-proxy.json beside it says ${markedName}: one of them is damaged. ` +
      'Compare a backup, or the node that uploads in Redis name, and write the right one into the other file'
    );
  return node === undefined || node === 'ours'
    ? undefined
    : `${path}/node does not hold the name of a node: restore it from a backup. Without it, the uploads of this node are lost`;
}

function refuseUnowned({ path, spool, hasLock, foreign }: DirectoryState): string | undefined {
  if (spool === 'filled')
    return `${path} has bytes of uploads in spool, but nothing that identifies their store: ${PARTIAL_COPY}`;
  if (foreign.length === 0 || hasLock) return undefined;
  return (
    `${path} is not empty (${foreign.join(', ')}) and contains nothing of this program: choose an empty directory, or a new ` +
    `one, for example --data ${path}/uploads-in-progress`
  );
}

/**
 * Refuses a directory with other files unless it has a mark or a record: our small files could belong to another
 * program.
 */
function refuseBesideForeign({ path, mark, hasRecord, foreign }: DirectoryState): string | undefined {
  if (mark || hasRecord || foreign.length === 0) return undefined;
  return (
    `${path} has files that do not belong to this program (${foreign.join(', ')}), and no rufh-proxy.json that identifies the rest: ` +
    `choose an empty directory, or a new one, for example --data ${path}/uploads-in-progress. If it is the data directory of an ` +
    'earlier version, move those files out of it'
  );
}

const PARTIAL_COPY =
  'it is only part of a data directory. Copy all of it (`uploads`, `spool` and the files beside them), or mount what is missing';

/**
 * Refuses a directory whose `uploads` and `spool` are not both there, and of one store. Those of an earlier version
 * have no marks.
 */
function refuseIncomplete({ path, mark, recordsMark, spoolMark, records, spool }: DirectoryState): string | undefined {
  const isOld = !mark && recordsMark === undefined;
  // A spool without records is allowed: it may contain the remains of the last uploads, which the cleanup removes.
  if (isOld)
    return records === 'filled' && spool === 'missing'
      ? `${path} has records in uploads, but no spool: ${PARTIAL_COPY}`
      : undefined;
  const id = mark?.id ?? recordsMark;
  const mayLackMarks = mark?.complete === false;
  const halves = { uploads: recordsMark, spool: spoolMark };
  for (const [name, storeMark] of Object.entries(halves)) {
    if (storeMark === id || (storeMark === undefined && mayLackMarks)) continue;
    return storeMark === undefined
      ? `${path}/${name} is missing, or is not the one that belongs to the rest of ${path} (it has no .store): ${PARTIAL_COPY}`
      : `${path}/${name} belongs to another data directory than the rest of ${path}: ${PARTIAL_COPY}`;
  }
  return undefined;
}

function refused(reason: string): Fault {
  return new Fault('CONTRACT_BROKEN', reason, false);
}

/**
 * The evidence that an entry is one of this program. `ours`: by its content. `maybe`: by its name and kind only, which
 * proves nothing. `unlike`: only by its name; the content is not ours. `misshapen`: only by its name; it is not the
 * file, or the directory, that it should be. `system`: a name that file systems and similar tools give. `foreign`:
 * anything else.
 */
export type Evidence = 'ours' | 'maybe' | 'unlike' | 'misshapen' | 'system' | 'foreign';

interface EntryForm {
  readonly name: RegExp;
  readonly kind: 'file' | 'directory';
  /** Judges the beginning of the file's content; without it only the name counts. */
  readonly evidence?: (text: string) => Evidence;
}

const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';

/** Names of drafts of the two kinds of marks. */
export const MARK_DRAFT = new RegExp(`^rufh-proxy\\.json-${UUID}$`);
export const STORE_MARK_DRAFT = new RegExp(`^\\.store-${UUID}$`);

const STORE_ID = new RegExp(`^${UUID}\\s*$`);
const LAST_START = /^\{"number":\d+\}\s*$/;

/** Names that file systems, desktops and version control create; a directory with nothing else counts as empty. */
export const SYSTEM_NAMES: readonly string[] = [
  ...['lost+found', 'aquota.user', 'aquota.group'],
  ...['.snapshot', '.snapshots', '~snapshot', '~snapshots', '.zfs', '.nfs…'],
  ...['.DS_Store', '._.DS_Store', '.gitkeep', '.keep'],
];

/** `…` stands for a number in hexadecimal digits. */
const SYSTEM_NAME = new RegExp(
  `^(${SYSTEM_NAMES.map((name) => name.replace(/[.+]/g, '\\$&').replace('…', '[0-9a-f]+')).join('|')})$`,
);

const MARKS: readonly EntryForm[] = [
  { name: /^\.store$/, kind: 'file', evidence: oursIf((text) => STORE_ID.test(text)) },
  { name: STORE_MARK_DRAFT, kind: 'file', evidence: oursIf((text) => STORE_ID.test(text)) },
];

/** Every name that this program gives, also those that a crash leaves behind, by the part of the directory. */
const ENTRY_FORMS = {
  beside: [
    { name: /^(uploads|spool|history)$/, kind: 'directory' },
    { name: /^lock$/, kind: 'file', evidence: evidenceOfLock },
    { name: lockLeftoverPattern('lock'), kind: 'file', evidence: evidenceOfLock },
    { name: /^last-start\.json(\.tmp)?$/, kind: 'file', evidence: oursIf((text) => LAST_START.test(text)) },
    { name: /^secrets\.keys$/, kind: 'file' },
    { name: new RegExp(`^secrets\\.keys-${UUID}$`), kind: 'file' },
    { name: /^node$/, kind: 'file', evidence: (text) => (isNodeName(text.trim()) ? 'ours' : 'unlike') },
    { name: NODE_DRAFT, kind: 'file', evidence: oursIf((text) => isNodeName(text.trim())) },
    { name: new RegExp(`^\\.probe-${UUID}$`), kind: 'directory' },
    // `parseMark` checks the content of the mark.
    { name: /^rufh-proxy\.json$/, kind: 'file' },
    { name: MARK_DRAFT, kind: 'file', evidence: oursIf((text) => text.startsWith('{"format":')) },
  ],
  uploads: [...MARKS, { name: /^[\w-]{32}([\w-]{11})?\.(log|log\.tmp|answer|damaged)$/, kind: 'file' }],
  spool: [
    ...MARKS,
    { name: /^\.in-use$/, kind: 'file' },
    { name: /^(\.taken-over|[\w-]{32}([\w-]{11})?)$/, kind: 'directory' },
  ],
} as const satisfies Record<string, readonly EntryForm[]>;

export type Part = keyof typeof ENTRY_FORMS;

/** Files whose entire text is checked are never longer. */
const MAX_TEXT_BYTES = 4096;

/** Judges one entry of a part of the directory. Rejects when the disk does. */
export async function evidenceOf(part: Part, directory: string, entry: DirectoryEntry): Promise<Evidence> {
  const forms: readonly EntryForm[] = ENTRY_FORMS[part];
  const form = forms.find(({ name }) => name.test(entry.name));
  if (!form) return SYSTEM_NAME.test(entry.name) ? 'system' : 'foreign';
  if (form.kind === 'directory' ? !entry.isDirectory() : !entry.isFile()) return 'misshapen';
  if (!form.evidence) return 'maybe';
  const text = await readSmallFile(join(directory, entry.name));
  return text === undefined ? 'unlike' : form.evidence(text);
}

/** Whether a file in `uploads` is a record by its name and by its content. False if it cannot be read. */
export async function isRecord(uploads: string, name: string): Promise<boolean> {
  const id = name.slice(0, -'.log'.length);
  if (!name.endsWith('.log') || !isGeneratedId(id)) return false;
  const head = await readHead(join(uploads, name)).catch(() => undefined);
  return head !== undefined && RECORD_START.test(head) && head.includes(`"${id}"`);
}

const RECORD_START = /^[0-9a-f]{8} \{"format":\d+,"upload":\{/;

/** The text of a small regular file; undefined for other files, because opening a pipe without a writer would block. */
export async function readSmallFile(path: string): Promise<string | undefined> {
  try {
    const stats = await lstat(path);
    return stats.isFile() && stats.size <= MAX_TEXT_BYTES ? await readHead(path) : undefined;
  } catch (error) {
    // Another process has removed the file meanwhile.
    if (hasCode(error, 'ENOENT')) return '';
    throw error;
  }
}

async function readHead(path: string): Promise<string> {
  const fd = await open(path, 'r');
  try {
    const bytes = Buffer.alloc(Math.min((await fstat(fd)).size, MAX_TEXT_BYTES));
    let at = 0;
    for (let got = -1; at < bytes.length && got !== 0; at += got) got = await read(fd, bytes.subarray(at), at);
    return bytes.toString('utf8', 0, at);
  } finally {
    await close(fd);
  }
}

/** Judges an empty file as `maybe`: a full disk, or a power cut without syncs, leaves one. */
function oursIf(isOurs: (text: string) => boolean): (text: string) => Evidence {
  return (text) => (isOurs(text) ? 'ours' : text === '' ? 'maybe' : 'unlike');
}

function evidenceOfLock(text: string): Evidence {
  if (parseOwner(text)) return 'ours';
  return isPartialLock(text) ? 'maybe' : 'unlike';
}
