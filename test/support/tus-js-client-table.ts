import { expect } from '@jest/globals';
import type { UploadOptions } from 'tus-js-client';
import { randomBytes, until } from './temporary.js';
import type { OriginRequest, OriginScript } from './test-origin.js';

/** tus-js-client is the client of Uppy and of most web pages that resume uploads; it speaks tus 1.0.0 and two drafts. */
export const PROTOCOLS = ['tus-v1', 'ietf-draft-03', 'ietf-draft-05'] as const;

/** Its types do not name the option that chooses the protocol. */
export type TusOptions = Partial<UploadOptions> & { readonly protocol?: (typeof PROTOCOLS)[number] };

export const FILE = randomBytes(300_000, 5);
export const FILE_NAME = 'ä b.png';

/** The origin gets the name in its path, and the type as it is. */
export const CONFIG = 'routes: [{ match: { path: /files }, delivery: { target: "/files/{filename}" } }]';

/** Options that every upload has, as JSON, because a page gets them too. */
export const OPTIONS: TusOptions = {
  retryDelays: [0, 0, 0, 0],
  metadata: { filename: FILE_NAME, filetype: 'image/png' },
};

/** A way to use the client. */
interface Mode {
  readonly name: string;
  readonly options: TusOptions;
  /** The bytes come from a stream, so the client does not know how many there are. */
  readonly isStream?: true;
  /** A first client stops after its first piece, and another one finds the upload in the storage. */
  readonly isResumed?: true;
  /** The drafts have no parts. */
  readonly onlyTus?: true;
}

const MODES: readonly Mode[] = [
  { name: 'in one request', options: {} },
  { name: 'in pieces', options: { chunkSize: 100_000 } },
  { name: 'with the first bytes in the creation', options: { uploadDataDuringCreation: true, chunkSize: 100_000 } },
  { name: 'with all bytes in the creation', options: { uploadDataDuringCreation: true } },
  { name: 'with POST instead of PATCH', options: { overridePatchMethod: true, chunkSize: 150_000 } },
  { name: 'in parallel', options: { parallelUploads: 3 }, onlyTus: true },
  {
    name: 'from a stream of unknown length',
    options: { uploadLengthDeferred: true, chunkSize: 100_000 },
    isStream: true,
  },
  { name: 'resumed from the storage', options: { chunkSize: 100_000 }, isResumed: true },
  {
    name: 'in parallel, resumed from the storage',
    options: { parallelUploads: 3, chunkSize: 40_000 },
    isResumed: true,
    onlyTus: true,
  },
];

/** How an upload ended for its client. */
export interface Ending {
  /** `success`, or the status of the response that ended it. */
  readonly end: 'success' | number;
  readonly body: string;
}

interface Answer {
  readonly name: string;
  readonly script: OriginScript;
  readonly ending: Ending;
  readonly requests: number;
}

const ANSWERS: readonly Answer[] = [
  { name: '201', script: { status: 201, body: 'stored' }, ending: { end: 'success', body: 'stored' }, requests: 1 },
  { name: '422', script: { status: 422, body: 'not here' }, ending: { end: 422, body: 'not here' }, requests: 1 },
  // An answer of the origin is its answer: asking again gives the same, and does not store the file twice.
  { name: '500', script: { status: 500, body: 'broken' }, ending: { end: 500, body: 'broken' }, requests: 1 },
  {
    name: '500 once',
    script: (_, index) => (index === 0 ? { status: 500, body: 'broken' } : { status: 201, body: 'twice' }),
    ending: { end: 500, body: 'broken' },
    requests: 1,
  },
  {
    name: '503 once',
    script: (_, index) => (index === 0 ? { status: 503 } : { status: 200, body: 'now' }),
    ending: { end: 'success', body: 'now' },
    requests: 2,
  },
  {
    name: '200 after a while',
    script: () => ({ status: 200, body: 'late', after: new Promise((resolve) => setTimeout(resolve, 300)) }),
    ending: { end: 'success', body: 'late' },
    requests: 1,
  },
];

/** One cell: a protocol, a way to use the client, and an origin. */
export interface Cell extends Omit<Mode, 'name'> {
  readonly protocol: (typeof PROTOCOLS)[number];
  readonly mode: string;
  readonly answer: string;
  readonly script: OriginScript;
  readonly ending: Ending;
  readonly requests: number;
}

/** Every combination that the client has; the drafts have no parts. */
export const CELLS: readonly Cell[] = PROTOCOLS.flatMap((protocol) =>
  MODES.filter(({ onlyTus }) => protocol === 'tus-v1' || !onlyTus).flatMap((mode) =>
    ANSWERS.map(({ name, ...answer }) => ({ ...mode, ...answer, protocol, mode: mode.name, answer: name })),
  ),
);

/** The origin got the file, its name and its type, so many times, and no field of an upload protocol. */
export function expectDelivered(requests: readonly OriginRequest[], count = 1): void {
  const target = `/files/${encodeURIComponent(FILE_NAME)}`;
  const seen = requests.map((request) => ({
    request: `${request.method} ${request.target}`,
    type: request.header('Content-Type'),
    isWhole: request.body.equals(FILE),
    fields: request.headers.filter(([name]) => /^(?:tus|upload)-/i.test(name)),
  }));
  expect(seen).toEqual(Array(count).fill({ request: `POST ${target}`, type: 'image/png', isWhole: true, fields: [] }));
}

/** These uploads of tus end, and then the proxy does not know them. */
export async function expectGone(urls: readonly string[]): Promise<void> {
  for (const url of urls) {
    const status = async (): Promise<number> =>
      (await fetch(url, { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } })).status;
    expect(await until(async () => (await status()) !== 200 && status(), 'the upload to end')).toBe(404);
  }
}
