import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { lockText } from '../../src/fs/lock-owner.js';
import { assertUsable } from '../../src/spool/data-directory.js';
import { type StoreKind, SYSTEM_NAMES } from '../../src/spool/directory-rules.js';
import { thisOwner } from '../../src/store/embedded/directory-lock.js';
import { snapshotLine } from '../../src/store/embedded/record-lines.js';
import { newRecord } from '../../src/store/embedded/transitions.js';
import { newId, newUpload } from '../contract/sample-upload.js';
import { pictureOf } from '../support/disk.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { startTestApp } from '../support/test-proxy.js';

// Issue 8: names prove nothing. Whose a directory is, the content of the entries says.
let disk: TemporaryDirectory;
let data: string;
beforeEach(async () => {
  disk = await temporaryDirectory();
  data = join(disk.path, 'data');
  await mkdir(data, { mode: 0o700 });
});
afterEach(async () => {
  useFileSystem();
  await disk.remove();
});

const inData = (name: string): string => join(data, name);

/** In place of the content of a file. */
const DIRECTORY = 'directory';

/** Makes the directories above it as this program does. */
async function put(name: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(inData(name)), { recursive: true, mode: 0o700 });
  if (content === DIRECTORY) await mkdir(inData(name), { mode: 0o700 });
  else await writeFile(inData(name), content, { mode: 0o600 });
}

async function putBoth(...entries: (readonly [name: string, content: string])[]): Promise<void> {
  for (const [name, content] of entries) await put(name, content);
}

const STARTS: Readonly<Record<StoreKind, string>> = {
  embedded: '',
  redis: 'store: { type: redis, url: "redis://127.0.0.1:1" }',
};

const verdictOf = (store: StoreKind) => assertUsable({ directory: data, store, isShared: false });

/** Of a whole start, which leaves every name, content, time and right as it was. */
async function refusalOf(store: StoreKind): Promise<string> {
  const before = await pictureOf(data);
  const outcome = await startTestApp({ origin: 'http://127.0.0.1:1', data, config: STARTS[store] }).then(
    async (app) => {
      await app.stop();
      return 'it was served';
    },
    (error: unknown) => (error as Error).message,
  );
  expect(await pictureOf(data)).toEqual(before);
  return outcome;
}

const REASONS: Readonly<Record<string, string>> = {
  foreign: 'and contains nothing of this program',
  strangers: 'has files that do not belong to this program',
  link: 'holds a symbolic link',
  unread: 'cannot be read (EACCES',
  redis: 'belongs to nodes with Redis',
  'no spool': 'has records in uploads, but no spool',
  'no halves': '/uploads is missing',
  bytes: 'has bytes of uploads in spool, but nothing that identifies their store',
  'no mark': 'does not say what the directory is',
  half: '/spool is missing',
};

async function expectVerdict(store: StoreKind, verdict: string): Promise<void> {
  if (verdict === 'ok') await expect(verdictOf(store)).resolves.toBeDefined();
  else expect(await refusalOf(store)).toContain(REASONS[verdict]);
}

const UUID = '0b5dcb1e-5f0c-4a0f-9b0e-9df0c3c0aa11';
const NONCE = randomBytes(12).toString('hex');
const ID = newId();
const LOCK = lockText({ ...(await thisOwner()), nonce: NONCE });
const RECORD = snapshotLine(newRecord(newUpload({ id: ID })));

interface Row {
  readonly name: string;
  readonly content: string | Buffer;
  /** With nothing beside it: its right form, another content, a wrong kind, a link, an empty file, one that cannot be read. */
  readonly alone: readonly [right: string, other: string, kind: string, link: string, empty: string, unread: string];
  /** In its right form, and as an empty file, beside a letter of somebody. */
  readonly beside: readonly [right: string, empty: string];
}

const row = (name: string, content: string | Buffer, alone: Row['alone'], beside: Row['beside']): Row => ({
  name,
  content,
  alone,
  beside,
});

const FILES: readonly Row[] = [
  row('lock', LOCK, ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'], ['ok', 'foreign']),
  ...[`lock.${NONCE}.tmp`, `lock.${NONCE}.breaking`, `lock.71-1700000000000.25.breaking.${NONCE}.tmp`].map((name) =>
    row(name, LOCK, ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'], ['foreign', 'foreign']),
  ),
  ...['last-start.json', 'last-start.json.tmp'].map((name) =>
    row(name, '{"number":7}\n', ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'], ['foreign', 'foreign']),
  ),
  row('node', 'ab'.repeat(8), ['redis', 'foreign', 'foreign', 'link', 'foreign', 'unread'], ['strangers', 'foreign']),
  row(
    'node.0123456789abcdef',
    'ab'.repeat(8),
    ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'],
    ['foreign', 'foreign'],
  ),
  row(
    'rufh-proxy.json',
    `{"format":1,"store":"embedded","id":"${UUID}","complete":true}\n`,
    ['no halves', 'no mark', 'no mark', 'link', 'no mark', 'unread'],
    ['no halves', 'no mark'],
  ),
  row(
    `rufh-proxy.json-${UUID}`,
    '{"format":1,',
    ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'],
    ['foreign', 'foreign'],
  ),
  row('uploads/.store', `${UUID}\n`, ['half', 'foreign', 'foreign', 'link', 'ok', 'unread'], ['strangers', 'foreign']),
  row('spool/.store', `${UUID}\n`, ['redis', 'foreign', 'foreign', 'link', 'ok', 'unread'], ['strangers', 'foreign']),
  ...['uploads', 'spool'].map((half) =>
    row(
      `${half}/.store-${UUID}`,
      `${UUID}\n`,
      ['ok', 'foreign', 'foreign', 'link', 'ok', 'unread'],
      ['foreign', 'foreign'],
    ),
  ),
  row(
    `uploads/${ID}.log`,
    RECORD,
    ['no spool', 'foreign', 'foreign', 'link', 'foreign', 'foreign'],
    ['no spool', 'foreign'],
  ),
  ...['log.tmp', 'answer', 'damaged'].map((kind) =>
    row(
      `uploads/${ID}.${kind}`,
      RECORD,
      ['foreign', 'foreign', 'foreign', 'link', 'foreign', 'foreign'],
      ['foreign', 'foreign'],
    ),
  ),
  row('spool/.in-use', '\n', ['ok', 'ok', 'foreign', 'link', 'ok', 'ok'], ['foreign', 'foreign']),
];

const VARIANTS: readonly ((row: Row) => Promise<void>)[] = [
  ({ name, content }) => put(name, content),
  ({ name }) => put(name, 'somebody wrote this\n'),
  ({ name }) => put(name, DIRECTORY),
  async ({ name }) => {
    await put('uploads/.DS_Store', '');
    await put('spool/.DS_Store', '');
    await symlink('/etc/passwd', inData(name));
  },
  ({ name }) => put(name, ''),
  async ({ name, content }) => {
    await put(name, content);
    const code = 'EACCES';
    useFileSystem({
      ...nodeFileSystem,
      open: (path, flags, mode) =>
        path === inData(name)
          ? Promise.reject(Object.assign(new Error(`${code}: open '${path}'`), { code, syscall: 'open' }))
          : nodeFileSystem.open(path, flags, mode),
    });
  },
];

const FORMS = ['its right form', 'another content', 'a directory', 'a link', 'empty', 'unreadable'];

describe.each(FILES)('a directory with $name', (entry) => {
  test.each(FORMS.map((form, n) => [form, entry.alone[n]!, n] as const))('%s: %s', async (_, verdict, n) => {
    await VARIANTS[n]!(entry);
    await expectVerdict('embedded', verdict);
  });

  test.each([
    ['its right form', entry.beside[0], 0],
    ['empty', entry.beside[1], 4],
  ] as const)('and a letter of somebody, %s: %s', async (_, verdict, n) => {
    await put('letter.txt', 'dear');
    await VARIANTS[n]!(entry);
    await expectVerdict('embedded', verdict);
  });
});

describe.each<StoreKind>(['embedded', 'redis'])('a start with the store "%s"', (store) => {
  test.each<[names: string, verdict: string, make: () => Promise<void>]>([
    ['a file uploads', 'foreign', () => put('uploads', 'text')],
    ['a file spool', 'foreign', () => put('spool', 'text')],
    ['a file with the name of an upload in spool', 'foreign', () => put(`spool/${newId()}`, 'text')],
    ['bytes of an upload alone', 'bytes', () => put(`spool/${newId()}/chunk-1-0`, 'bytes')],
    ['a file that a probe of ours would be', 'foreign', () => put(`.probe-${UUID}`, 'text')],
    ['what a probe of ours leaves', 'ok', () => put(`.probe-${UUID}`, DIRECTORY)],
    ['both halves, empty', 'ok', () => putBoth(['uploads', DIRECTORY], ['spool', DIRECTORY])],
    ['a lock of Debian’s packages', 'foreign', () => putBoth(['lock', ''], ['status', ''])],
    ['the nodes of something else', 'foreign', () => put('node/index.js', '')],
    ['a picture of an application', 'foreign', () => put('uploads/picture.jpg', '')],
    ['a picture under a UUID', 'foreign', () => put(`uploads/${UUID}.jpg`, '')],
    ['a log under a UUID', 'foreign', () => put(`uploads/${UUID}.log`, '')],
    ['a log under an MD5', 'foreign', () => put('uploads/d41d8cd98f00b204e9800998ecf8427e.log', 'GET /\n')],
    ['a record under another id', 'foreign', () => put(`uploads/${newId()}.log`, RECORD)],
    ['settings of a web server', 'foreign', () => put('uploads/.htaccess', '')],
    ['a copy of a mark', 'foreign', () => put('rufh-proxy.json-old', '{"format":1}')],
    ...SYSTEM_NAMES.map((name) => name.replace('…', '000000000a1b2c3d')).map(
      (name): [string, string, () => Promise<void>] => [`nothing but ${name}`, 'ok', () => put(name, '')],
    ),
    ['names that only resemble those', 'foreign', () => putBoth(['aquota.users', ''], ['lostfound', ''])],
    ['a name of a network disk without its number', 'foreign', () => put('.nfs', '')],
    [
      'lost+found in both halves',
      'ok',
      () => putBoth(['uploads/lost+found', DIRECTORY], ['spool/lost+found', DIRECTORY]),
    ],
    [
      'the number of a start, and pictures',
      'strangers',
      () => putBoth(['last-start.json', '{"number":3}\n'], ['uploads/x.jpg', '']),
    ],
    ['settings of git', 'foreign', () => put('.gitignore', '*')],
  ])('on %s: %s', async (_, verdict, make) => {
    await make();
    await expectVerdict(store, verdict);
  });
});

test('a record is found behind whatever else has the name of one of its files', async () => {
  await put('spool/.keep', '');
  for (let n = 0; n < 25; n++) await put(`uploads/${newId()}.answer`, 'yes');
  for (let n = 0; n < 25; n++) await put(`uploads/${newId()}.damaged`, 'no');
  await expectVerdict('embedded', 'foreign');
  await put(`uploads/${ID}.log`, RECORD);
  await expectVerdict('embedded', 'ok');
});

describe('a directory of the embedded store', () => {
  beforeEach(async () => {
    const app = await startTestApp({ origin: 'http://127.0.0.1:1', data });
    await app.stop();
  });

  test.each([
    'lock',
    `lock.${NONCE}.tmp`,
    'last-start.json',
    'last-start.json.tmp',
    'rufh-proxy.json',
    'uploads/.store',
  ])('is refused, and stays as it is, where %s is a directory', async (name) => {
    await nodeFileSystem.removeTree(inData(name));
    await put(name, DIRECTORY);
    expect(await refusalOf('embedded')).toMatch(
      /is not the kind of file that this program puts there|does not say what/,
    );
  });

  test('is used while entries of somebody have other names that this program gives', async () => {
    await put('node/index.js', '');
    await put(`uploads/${UUID}.log`, 'GET /\n');
    await put('uploads/abcdefghijklmnopqrstuvwxyz.answer', 'yes');
    await chmod(inData('uploads/abcdefghijklmnopqrstuvwxyz.answer'), 0o600);
    await put('rufh-proxy.json-old', 'a copy');
    await put('spool/.store-backup', 'a copy');
    await nodeFileSystem.utimes(inData('uploads/abcdefghijklmnopqrstuvwxyz.answer'), new Date(0), new Date(0));
    await (await startTestApp({ origin: 'http://127.0.0.1:1', data })).stop();
    for (const [name, content] of [
      [`uploads/${UUID}.log`, 'GET /\n'],
      ['uploads/abcdefghijklmnopqrstuvwxyz.answer', 'yes'],
      ['rufh-proxy.json-old', 'a copy'],
      ['spool/.store-backup', 'a copy'],
    ] as const)
      expect(await readFile(inData(name), 'utf8')).toBe(content);
  });

  // As a version before the marks left it.
  test.each([
    ['with nothing else', 'ok', []],
    ['without what says that it was started', 'bytes', ['last-start.json']],
    ['without its records', 'bytes', ['uploads']],
  ])('of an earlier version, with bytes and no record, %s: %s', async (_, verdict, lost) => {
    for (const name of ['rufh-proxy.json', 'uploads/.store', 'spool/.store', ...lost])
      await nodeFileSystem.removeTree(inData(name));
    const orphan = `spool/${newId()}/chunk-1-0`;
    await put(orphan, 'bytes');
    await expectVerdict('embedded', verdict);
    if (verdict === 'ok') await (await startTestApp({ origin: 'http://127.0.0.1:1', data })).stop();
    expect(await readFile(inData(orphan), 'utf8')).toBe('bytes');
  });
});

// Issue 9, §6: it was said that it cannot be read.
test('a directory that can be read and not written is refused with that', async () => {
  const denied = Object.assign(new Error('EACCES'), { code: 'EACCES', syscall: 'access' });
  useFileSystem({
    ...nodeFileSystem,
    access: (path, mode = 0) =>
      (mode & constants.W_OK) === 0 ? nodeFileSystem.access(path, mode) : Promise.reject(denied),
  });
  const refusal = `the data directory ${data} cannot be written (EACCES in access)`;
  await expect(verdictOf('embedded')).rejects.toThrow(refusal);
});

describe('a node that has its name twice', () => {
  const NAME = '0123456789abcdef';
  const MARK = { format: 1, store: 'redis', id: UUID, complete: true };
  beforeEach(async () => {
    await put('rufh-proxy.json', `${JSON.stringify({ ...MARK, node: NAME })}\n`);
    await put('spool/.store', `${UUID}\n`);
    await put(`spool/${newId()}/chunk-1-0`, 'bytes');
    await put('node', NAME);
  });

  test('is used, also where only the file of earlier versions has it', async () => {
    await expect(verdictOf('redis')).resolves.toMatchObject({ nodeName: NAME });
    await put('rufh-proxy.json', `${JSON.stringify(MARK)}\n`);
    await expect(verdictOf('redis')).resolves.toMatchObject({ nodeName: NAME });
  });

  test.each(['node', 'rufh-proxy.json'])('is never another one after a bit of %s has turned', async (file) => {
    const right = await readFile(inData(file));
    const others: string[] = [];
    for (let bit = 0; bit < right.length * 8; bit++) {
      const turned = Buffer.from(right);
      turned[bit >> 3]! ^= 1 << (bit & 7);
      await put(file, turned);
      const found = await verdictOf('redis').catch(() => undefined);
      if (found && found.nodeName !== NAME) others.push(turned.toString('latin1'));
    }
    expect(others).toEqual([]);
  });

  test('is refused without the file, and told what to write there', async () => {
    await nodeFileSystem.removeTree(inData('node'));
    expect(await refusalOf('redis')).toContain(`printf %s ${NAME} > ${inData('node')}`);
  });

  test('is refused where the two differ', async () => {
    await put('node', NAME.replace('0', '1'));
    expect(await refusalOf('redis')).toContain(
      `says that this node is 1123456789abcdef, and rufh-proxy.json beside it says ${NAME}`,
    );
  });
});

test('the name of a node that is none is refused before anything is changed', async () => {
  await put('rufh-proxy.json', `{"format":1,"store":"redis","id":"${UUID}","complete":true}\n`);
  await put('spool/.store', `${UUID}\n`);
  for (const text of ['', 'ab', DIRECTORY]) {
    await nodeFileSystem.removeTree(inData('node'));
    await put('node', text);
    expect(await refusalOf('redis')).toMatch(/node (does not hold the name of a node|is not the kind of file)/);
  }
});
