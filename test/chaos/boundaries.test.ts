import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { connect, requestOnce } from '../support/client.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { clientDialect, creationLines, ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, serverPort, sha256, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { part } from '../support/thoroughness.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

const PRELOAD = fileURLToPath(new URL('../support/kill-at.mjs', import.meta.url));
const DIALECT = clientDialect('8');

let origin: TestOrigin;
let proxy: ProxyProcess;

beforeEach(async () => {
  origin = await startTestOrigin({ status: 201, body: 'made' });
});

afterEach(async () => {
  await proxy.stop();
  await origin.close();
});

function send(request: WireRequest): Promise<WireResponse> {
  return requestOnce(proxy.url, { ...request, headers: [['Host', 'api'], ...(request.headers ?? [])] });
}

/** Creates with the whole body in one request; gives the upload if its URL was told before the end. */
async function create(method: string, whole: Buffer): Promise<ResumableUpload | undefined> {
  const client = await connect(proxy.url);
  const headers = [
    ['Host', 'api'],
    ['Content-Length', `${whole.length}`],
    ...creationLines(DIALECT, { complete: true }),
  ];
  await client.send(
    `${method} /files HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
  );
  const told = await client.readInterim().then(
    (interim) => interim.header('Location'),
    () => undefined,
  );
  await client.send(whole);
  await within(proxy.exited, 'the proxy to be killed');
  client.destroy();
  return told === undefined ? undefined : new ResumableUpload(DIALECT, send, told);
}

/** Comes back as often as a patient client would, and counts how often it was told that the outcome is unknown. */
async function comeBack(upload: ResumableUpload, whole: Buffer): Promise<{ last: WireResponse; toldUnknown: number }> {
  let toldUnknown = 0;
  for (let round = 0; ; round += 1) {
    const last = await upload.finish(whole);
    if (last.status < 500 || round === 5) return { last, toldUnknown };
    if (last.body.toString().includes('sends it once more')) toldUnknown += 1;
  }
}

const BOUNDARIES = [
  'create',
  'commit',
  'claimDelivery',
  'beginAttempt',
  'endAttempt',
  'recordAnswer',
  'remove',
].flatMap((verb) => [`${verb}:before`, `${verb}:after`]);

/** They come after the answer, when the upload has expired: nobody waits for anything any more. */
const AFTER_THE_END = /^remove:/;

/** They come when the origin has refused the first request. */
const AFTER_A_REFUSAL = /^endAttempt:/;

const CASES = ['POST', 'PUT'].flatMap((method) => BOUNDARIES.map((boundary) => [method, boundary] as const));

test.each(part(CASES, 3))(
  '%s: killed at %s, the origin is asked as the guarantee says, and the client gets the one answer',
  async (method, boundary) => {
    const whole = randomBytes(100_000, 3);
    const config = AFTER_THE_END.test(boundary) ? 'delivery: { keep_answer: 1s }' : undefined;
    proxy = await startProxy({
      origin: origin.url,
      listen: `127.0.0.1:${await serverPort()}`,
      nodeFlags: ['--import', PRELOAD],
      env: { KILL_AT: boundary },
      ...(config === undefined ? {} : { config }),
    });
    const refusals = AFTER_A_REFUSAL.test(boundary) ? 1 : 0;
    if (refusals > 0) origin.answerWith((_, index) => (index === 0 ? { status: 503 } : { status: 201, body: 'made' }));
    const upload = await create(method, whole);
    proxy = await proxy.restart({ nodeFlags: [], env: {} });

    expect(upload === undefined).toBe(boundary.startsWith('create:'));
    if (upload && AFTER_THE_END.test(boundary)) {
      expect([404, 410]).toContain((await upload.retrieve()).status);
    } else if (upload) {
      const { last, toldUnknown } = await comeBack(upload, whole);
      expect([last.status, last.body.toString()]).toEqual([201, 'made']);
      const most = (method === 'PUT' ? 2 : 1 + toldUnknown) + refusals;
      expect(origin.requests.length).toBeLessThanOrEqual(most);
    }
    const seen = origin.requests.filter(({ ended }) => ended === 'whole');
    expect(seen.length).toBeGreaterThanOrEqual(upload ? 1 : 0);
    for (const request of seen) expect(request.sha256).toBe(sha256(whole));
  },
);
