import { AdminRefused, type AdminClient, type Json } from './admin-client.js';
import { soughtBy } from './find-upload.js';
import { detailWords, type ShownUpload } from './upload-detail.js';
import { setAsideTable, uploadTable, type ListedUpload, type SetAsideUpload } from './upload-words.js';

export interface ListOptions {
  readonly phase?: string;
  readonly limit: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

interface Page {
  readonly uploads: readonly ListedUpload[];
  readonly setAside?: readonly SetAsideUpload[];
  /** Uploads in the spool without a record: a store was lost, or records are missing. */
  readonly unknownUploads?: { readonly problem: string };
  readonly next?: string;
}

/** What one request for a list may ask for. */
const LARGEST_PAGE = 1000;

/** Prints the newest uploads. */
export async function list(
  client: AdminClient,
  { phase, limit, json = false, quiet = false }: ListOptions,
): Promise<void> {
  const uploads: ListedUpload[] = [];
  const setAside: SetAsideUpload[] = [];
  let unknownUploads: Page['unknownUploads'];
  let next: string | undefined;
  do {
    const query = new URLSearchParams({ limit: String(Math.min(limit - uploads.length, LARGEST_PAGE)) });
    if (phase !== undefined) query.set('phase', phase);
    if (next !== undefined) query.set('after', next);
    const page = (await client.ask('GET', `/uploads?${query.toString()}`, isPage)) as Page;
    uploads.push(...page.uploads);
    setAside.push(...(page.setAside ?? []));
    unknownUploads ??= page.unknownUploads;
    next = page.next;
  } while (next !== undefined && uploads.length < limit);
  if (json)
    printJson({ uploads, ...(setAside.length > 0 ? { setAside } : {}), ...(unknownUploads ? { unknownUploads } : {}) });
  else if (quiet) print(uploads.map(({ tag }) => `${tag}\n`).join(''));
  else print(uploads.length === 0 ? 'no uploads\n' : visible(uploadTable(uploads, Date.now())));
  if (!json && !quiet && setAside.length > 0) print(visible(`\n${setAsideTable(setAside)}`));
  if (!json && !quiet && unknownUploads) print(visible(`\nWarning: ${unknownUploads.problem}.\n`));
  if (next !== undefined) process.stderr.write(`There are more: --limit ${limit * 10} shows up to so many.\n`);
}

/** Prints everything about the upload that is meant, or the list of those that may be. */
export async function show(client: AdminClient, what: string, { json = false }: { json?: boolean }): Promise<void> {
  const { tag, find } = soughtBy(what);
  const unknown = tag === undefined ? undefined : await showTagged(client, tag, json);
  if (tag !== undefined && unknown === undefined) return;
  const query = new URLSearchParams({ find, limit: String(LARGEST_PAGE) }).toString();
  const page = (await client.ask('GET', `/uploads?${query}`, isPage)) as Page;
  const [first, ...more] = page.uploads;
  if (!first) throw unknown ?? new AdminRefused(NOT_FOUND(what), 404);
  if (more.length === 0) {
    const gone = await showTagged(client, first.tag, json);
    if (gone) throw gone;
    return;
  }
  print(json ? `${JSON.stringify(page, undefined, 2)}\n` : visible(uploadTable(page.uploads, Date.now())));
  process.stderr.write(`${page.uploads.length} uploads are known by this; show one of them by its tag.\n`);
}

const NOT_FOUND = (what: string): string =>
  `No upload is known by ${JSON.stringify(what)}, be it a tag, the URL of an upload, the path of a creation, an Idempotency-Key or ` +
  'the address of a client. Those that have ended and been removed are in the log only.';

/** Undefined when it was shown; the refusal when there is none with this tag. */
async function showTagged(client: AdminClient, tag: string, json: boolean): Promise<AdminRefused | undefined> {
  let upload: ShownUpload | SetAsideUpload;
  try {
    upload = (await client.ask('GET', `/uploads/${tag}`, isUpload)) as ShownUpload | SetAsideUpload;
  } catch (error) {
    if (error instanceof AdminRefused && error.status === 404) return error;
    throw error;
  }
  const words = (): string => ('since' in upload ? setAsideTable([upload]) : detailWords(upload, Date.now()));
  print(json ? `${JSON.stringify(upload, undefined, 2)}\n` : visible(words()));
  return undefined;
}

/** Does the same to every upload that is named; what one refuses does not keep the others from it. */
export async function each(
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

/** Targets and problems come from outside: they must not steer the terminal. */
function visible(text: string): string {
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '?');
}
