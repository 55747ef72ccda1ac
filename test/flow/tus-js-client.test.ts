import { Readable } from 'node:stream';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { DetailedError, type HttpResponse, Upload, type UploadOptions } from 'tus-js-client';
import { CuttingProxy } from '../support/network.js';
import { randomBytes, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { type OriginScript, startTestOrigin, type TestOrigin } from '../support/test-origin.js';

/** tus-js-client is the client of Uppy and of most web pages that resume uploads; it speaks tus 1.0.0 and two drafts. */
const PROTOCOLS = ['tus-v1', 'ietf-draft-03', 'ietf-draft-05'] as const;

const FILE = randomBytes(300_000, 5);

let origin: TestOrigin;
let app: TestApp;
let network: CuttingProxy;
beforeAll(async () => {
  origin = await startTestOrigin();
  app = await startTestApp({ origin: origin.url });
  network = await CuttingProxy.start(Number(new URL(app.url).port));
});
afterAll(async () => {
  await network.cut();
  await app.stop();
  await origin.close();
});
beforeEach(() => {
  origin.requests.length = 0;
});

interface Ending {
  /** `success`, or the status of the response that ended it. */
  readonly end: 'success' | number;
  readonly body: string;
}

/** Its types do not name the option that chooses the protocol. */
type Options = UploadOptions & { readonly protocol?: (typeof PROTOCOLS)[number] };

const OPTIONS: Options = {
  endpoint: '',
  retryDelays: [0, 0, 0, 0],
  metadata: { filename: 'ä b.png', filetype: 'image/png' },
  storeFingerprintForResuming: false,
};

/** Runs the client to its end. */
function run(source: Buffer | Readable, options: Options): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const ending: Options = {
      ...OPTIONS,
      endpoint: `${network.url}/files`,
      ...options,
      onSuccess: ({ lastResponse }) => resolve({ end: 'success', body: lastResponse.getBody() || '' }),
      onError: (error) => {
        const response: HttpResponse | null = error instanceof DetailedError ? error.originalResponse : null;
        if (response) resolve({ end: response.getStatus(), body: response.getBody() || '' });
        else reject(error);
      },
    };
    new Upload(source, ending).start();
  });
}

const ALL_IN_CREATION: UploadOptions = { uploadDataDuringCreation: true };

/** The file in parts of its own that are joined at the end. */
const IN_PARALLEL: UploadOptions = { parallelUploads: 3 };

type Mode = readonly [name: string, options: UploadOptions, source?: () => Readable];
const MODES: readonly Mode[] = [
  ['in one request', {}],
  ['in pieces', { chunkSize: 100_000 }],
  ['with the first bytes in the creation', { uploadDataDuringCreation: true, chunkSize: 100_000 }],
  ['with all bytes in the creation', ALL_IN_CREATION],
  ['with POST instead of PATCH', { overridePatchMethod: true, chunkSize: 150_000 }],
  ['in parallel', IN_PARALLEL],
  ['from a stream of unknown length', { uploadLengthDeferred: true, chunkSize: 100_000 }, () => Readable.from([FILE])],
];

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

describe.each(PROTOCOLS)('%s', (protocol) => {
  // The drafts have no parts.
  describe.each(MODES.filter(([, options]) => protocol === 'tus-v1' || options !== IN_PARALLEL))(
    '%s',
    (_mode, options, source) => {
      // This client cannot send a length later with the drafts, so one row is enough.
      const answers = protocol === 'tus-v1' || !options.uploadLengthDeferred ? ANSWERS : ANSWERS.slice(0, 1);
      test.each(answers)('the origin answers $name', async (answer) => {
        origin.answerWith(answer.script);
        expect(await run(source?.() ?? FILE, { ...options, protocol })).toEqual(answer.ending);
        // With the drafts this client learns no URL from such a creation, so it can only begin anew, as often as it tries.
        const beginsAnew = protocol !== 'tus-v1' && answer.ending.end === 500 && options === ALL_IN_CREATION;
        expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual(
          Array(beginsAnew ? 1 + OPTIONS.retryDelays!.length : answer.requests).fill(true),
        );
        const [request] = origin.requests;
        expect([request!.method, request!.header('Content-Type')]).toEqual(['POST', 'image/png']);
        expect(request!.headers.filter(([name]) => /^(?:tus|upload)-/i.test(name))).toEqual([]);
      });
    },
  );

  test('goes on where it was when the network comes back', async () => {
    origin.answerWith({ status: 201, body: 'stored' });
    let cuts = 0;
    const onProgress = (sent: number): void => {
      if (sent > 100_000 && cuts++ === 0) void network.cut().then(() => network.restore());
    };
    const ended = await run(FILE, { protocol, chunkSize: 50_000, onProgress, retryDelays: Array<number>(50).fill(20) });
    expect(ended).toEqual({ end: 'success', body: 'stored' });
    expect(cuts).toBeGreaterThan(0);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('what it gives up is gone, and never reaches the origin', async () => {
    const options: Options = {
      ...OPTIONS,
      endpoint: `${network.url}/files`,
      protocol,
      chunkSize: 100_000,
      onChunkComplete: () => void ended.push(upload.abort(true)),
    };
    const upload = new Upload(FILE, options);
    const ended: Promise<void>[] = [];
    upload.start();
    await until(() => ended.length > 0, 'the first piece');
    await Promise.all(ended);
    const response = await fetch(upload.url!, { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } });
    expect(response.status).toBe(404);
    expect(origin.requests).toEqual([]);
  });
});
