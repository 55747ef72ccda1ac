import { userInfo } from 'node:os';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { PHASES } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import {
  type AdminClient,
  type AdminFlags,
  AdminRefused,
  type Json,
  addAdminOptions,
  withClient,
} from './admin-client.js';
import { removedUpload, type RemovedUpload, storyPart, type WithStory } from './tell-story.js';
import {
  uploadDetails,
  type ListedUpload,
  setAsideTable,
  type SetAsideUpload,
  type ShownUpload,
  uploadTable,
} from './format-uploads.js';

const EXAMPLES = `
The commands talk to the admin listener of a running proxy. They identify an upload by its tag, which the logs show.
"show" also finds it by its URL, its Idempotency-Key, the path of its creation or the address of its client.

Examples:
  $ rufh-proxy uploads list --phase undelivered
  $ rufh-proxy uploads show 3f0c9a17be
  $ rufh-proxy uploads show /files/report.pdf
  $ rufh-proxy uploads redeliver 3f0c9a17be --admin http://127.0.0.1:9090
  $ rufh-proxy uploads redeliver 3f0c9a17be --past-gate --as 'Ada, ticket 417'

Exit code: 0 when everything succeeded, 1 when something failed, 2 when the admin listener cannot be reached.`;

/** `uploads list|show|cancel|redeliver`. */
export function addUploadsCommand(root: Command): void {
  const uploads = root
    .command('uploads')
    .description('list, show, cancel or redeliver the uploads of a running proxy')
    .addHelpText('after', EXAMPLES);
  addAdminOptions(uploads.command('list'))
    .description('list the newest uploads with their phase, size, age, attempts and the reason for their state')
    .addOption(new Option('--phase <phase>', 'only uploads in this phase').choices(PHASES))
    .option('--limit <number>', 'maximum number of uploads', parsePositive, 100)
    .option('--json', 'print JSON')
    .option('-q, --quiet', 'print only tags')
    .action((options: ListOptions & AdminFlags) => withClient(options, (client) => list(client, options)));
  addAdminOptions(uploads.command('show'))
    .description('show one upload in detail, without credentials and content; if several match, list them')
    .argument('<what>', 'tag, URL or Idempotency-Key of the upload, path of its creation, or address of its client')
    .option('--json', 'print JSON')
    .action((what: string, options: { json?: boolean } & AdminFlags) => {
      return withClient(options, (client) => show(client, what, options));
    });
  addAdminOptions(uploads.command('cancel'))
    .description('cancel uploads and delete their bytes; their clients get 404')
    .argument('<tag...>', 'tags of the uploads')
    .option('--as <name>', OPERATOR_HELP)
    .action((tags: string[], options: OperatorOption & AdminFlags) => {
      const query = `?${new URLSearchParams({ operator: operatorName(options) }).toString()}`;
      return withClient(options, (client) =>
        forEachTag(tags, 'cancelled', (path) => client.request('DELETE', path + query)),
      );
    });
  addAdminOptions(uploads.command('redeliver'))
    .description('deliver uploads to their origin again, even if it may have received them already')
    .argument('<tag...>', 'tags of the uploads')
    .option('--past-gate', 'skip the gate of the route, which is asked again by default')
    .option('--as <name>', OPERATOR_HELP)
    .action((tags: string[], options: OperatorOption & AdminFlags & { pastGate?: boolean }) => {
      const gateOption = options.pastGate ? { past_gate: 'true' } : undefined;
      const query = new URLSearchParams({ operator: operatorName(options), ...gateOption }).toString();
      return withClient(options, (client) =>
        forEachTag(tags, gateOption ? 'is being delivered past its gate' : 'is being delivered', (path) =>
          client.request('POST', `${path}/redeliver?${query}`),
        ),
      );
    });
}

const OPERATOR_HELP = 'your name for the log of the proxy (default: your user name on this machine)';

interface OperatorOption {
  readonly as?: string;
}

/** The name of the operator; with `sudo`, the name of the calling user. */
function operatorName({ as }: OperatorOption): string {
  try {
    return as ?? (process.env['SUDO_USER'] || userInfo().username);
  } catch {
    // The user has no name, as in some containers.
    return `user ${process.getuid?.() ?? 'unknown'}`;
  }
}

function parsePositive(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number, 1 or more.');
}

interface ListOptions {
  readonly phase?: string;
  readonly limit: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** One page of the list, as the admin listener sends it. */
interface Page {
  readonly uploads: readonly ListedUpload[];
  /** Uploads whose record or bytes cannot be read. */
  readonly setAside?: readonly SetAsideUpload[];
  /** Uploads in the spool without a record: the store was lost, or records are missing. */
  readonly unknownUploads?: { readonly problem: string };
  readonly next?: string;
}

/** The largest number of uploads that one request can list. */
const LARGEST_PAGE = 1000;

async function list(client: AdminClient, { phase, limit, json = false, quiet = false }: ListOptions): Promise<void> {
  const uploads: ListedUpload[] = [];
  const setAside: SetAsideUpload[] = [];
  let unknownUploads: Page['unknownUploads'];
  let next: string | undefined;
  do {
    const query = new URLSearchParams({ limit: String(Math.min(limit - uploads.length, LARGEST_PAGE)) });
    if (phase !== undefined) query.set('phase', phase);
    if (next !== undefined) query.set('after', next);
    const page = (await client.request('GET', `/uploads?${query.toString()}`, isPage)) as Page;
    uploads.push(...page.uploads);
    setAside.push(...(page.setAside ?? []));
    unknownUploads ??= page.unknownUploads;
    next = page.next;
  } while (next !== undefined && uploads.length < limit);
  if (json)
    printJson({ uploads, ...(setAside.length > 0 ? { setAside } : {}), ...(unknownUploads ? { unknownUploads } : {}) });
  else if (quiet) print(uploads.map(({ tag }) => `${tag}\n`).join(''));
  else print(uploads.length === 0 ? 'no uploads\n' : escapeControl(uploadTable(uploads, Date.now())));
  if (!json && !quiet && setAside.length > 0) print(escapeControl(`\n${setAsideTable(setAside)}`));
  if (!json && !quiet && unknownUploads) print(escapeControl(`\nWarning: ${unknownUploads.problem}.\n`));
  if (next !== undefined)
    process.stderr.write(`There are more uploads; --limit ${limit * 10} lists up to ${limit * 10} of them.\n`);
}

/** Prints the matching upload, or the list if several match. */
async function show(client: AdminClient, reference: string, { json = false }: { json?: boolean }): Promise<void> {
  const { tag, find } = parseUploadReference(reference);
  const tagRefusal = tag === undefined ? undefined : await showTagged(client, tag, json);
  if (tag !== undefined && tagRefusal === undefined) return;
  const query = new URLSearchParams({ find, limit: String(LARGEST_PAGE) }).toString();
  const page = (await client.request('GET', `/uploads?${query}`, isPage)) as Page;
  const [first, ...more] = page.uploads;
  if (!first) throw tagRefusal ?? new AdminRefused(notFoundMessage(reference), 404);
  if (more.length === 0) {
    const refusal = await showTagged(client, first.tag, json);
    if (refusal) throw refusal;
    return;
  }
  print(json ? `${JSON.stringify(page, undefined, 2)}\n` : escapeControl(uploadTable(page.uploads, Date.now())));
  process.stderr.write(`${page.uploads.length} uploads match; show one of them by its tag.\n`);
}

const notFoundMessage = (reference: string): string =>
  `No upload matches ${JSON.stringify(reference)} by its tag or URL, the path of its creation, its Idempotency-Key or the address ` +
  'of its client. Uploads that ended and were removed are only in the log.';

/** Prints the upload with this tag. Returns the refusal if no upload has this tag. */
async function showTagged(client: AdminClient, tag: string, json: boolean): Promise<AdminRefused | undefined> {
  let upload: (ShownUpload & WithStory) | SetAsideUpload | RemovedUpload;
  try {
    upload = (await client.request('GET', `/uploads/${tag}`, isUpload)) as typeof upload;
  } catch (error) {
    if (error instanceof AdminRefused && error.status === 404) return error;
    throw error;
  }
  const describe = (): string => {
    if ('since' in upload) return setAsideTable([upload]);
    return 'request' in upload
      ? uploadDetails(upload, Date.now()) + storyPart(upload)
      : removedUpload(upload, Date.now());
  };
  print(json ? `${JSON.stringify(upload, undefined, 2)}\n` : escapeControl(describe()));
  return undefined;
}

/** Applies `act` to the path of every upload and prints `done` after each. A refusal of one does not stop the others. */
async function forEachTag(
  tags: readonly string[],
  done: string,
  act: (path: string) => Promise<unknown>,
): Promise<void> {
  for (const tag of tags) {
    try {
      await act(`/uploads/${encodeURIComponent(tag)}`);
      print(`${tag}  ${done}\n`);
    } catch (error) {
      if (!(error instanceof AdminRefused)) throw error;
      process.stderr.write(`rufh-proxy: ${tag}: ${error.message}\n`);
      process.exitCode = 1;
    }
  }
}

function isPage({ uploads }: Json): boolean {
  return Array.isArray(uploads);
}

function isUpload({ tag }: Json): boolean {
  return typeof tag === 'string';
}

function printJson(value: object): void {
  print(`${JSON.stringify(value, undefined, 2)}\n`);
}

function print(text: string): void {
  process.stdout.write(text);
}

/** Replaces control characters, because targets and problems contain text of clients, which must not control the terminal. */
function escapeControl(text: string): string {
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '?');
}

/** A search for an upload, as a query to the admin listener. */
interface UploadQuery {
  /** Exact match, tried first. */
  readonly tag?: string;
  /** A path, an `Idempotency-Key` or the address of a client, searched if no upload has that tag. */
  readonly find: string;
}

/** Ids of uploads are 192 random bits. */
const UPLOAD_ID = /^[A-Za-z0-9_-]{32}$/;
const TAG = /^[0-9a-f]{10}$/;

/**
 * Parses the reference that an operator gives. The id in the URL of an upload grants write access, so the upload is requested by
 * its tag; the id is sent only if no upload has that tag.
 */
function parseUploadReference(reference: string): UploadQuery {
  const path =
    /^https?:\/\//i.test(reference) && URL.canParse(reference)
      ? new URL(reference).pathname
      : reference.split('?', 1)[0]!;
  if (!path.includes('/'))
    return TAG.test(reference) || UPLOAD_ID.test(reference)
      ? { tag: tagOf(reference), find: reference }
      : { find: reference };
  const id = path
    .replace(/\/(?:status|answer)$/, '')
    .split('/')
    .at(-1)!;
  return UPLOAD_ID.test(id) ? { tag: uploadTag(id), find: path } : { find: path };
}

function tagOf(reference: string): string {
  return TAG.test(reference) ? reference : uploadTag(reference);
}
