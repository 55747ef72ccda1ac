import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { exchangeOver, openRequest, type Transport, TRANSPORTS } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { blockOf } from '../support/pages-of-docs.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { WebdavServer } from '../support/webdav-server.js';
import type { WireResponse } from '../support/wire.js';

// iOS 26.1 and newer send the photo library themselves: OPTIONS, and then the whole photo with one PUT, which is resumed.

const PHOTO = randomBytes(3_000_000, 5);
const CUT_AT = 1_000_000;

/** The configuration that the guide shows for a WebDAV server. */
function shownConfig(origin: string): string {
  const text = blockOf('docs/clients/ios.md', 'yaml', '# rufh-proxy.yaml, photo library');
  return text.replace(/^origin: .*$/m, `origin: ${origin}`);
}

const VERSION: HeaderLine = ['Upload-Draft-Interop-Version', '6'];
/** What the app sets; the system repeats it on every request of the photo. */
const OWN: readonly HeaderLine[] = [
  ['Authorization', 'Basic YW5uOnNlY3JldA=='],
  ['X-Asset', '7F-12'],
  ['Accept', '*/*'],
  ['User-Agent', 'photolibraryd/1 CFNetwork/3896 Darwin/27'],
];
const TYPE: HeaderLine = ['Content-Type', 'image/heic'];

interface Sent {
  readonly options: WireResponse;
  readonly head: WireResponse;
  readonly last: WireResponse;
}

/** The requests of the photo library for one photo whose connection is cut in the middle. */
async function sendPhoto(
  transport: Transport,
  proxy: ProxyProcess,
  target: string,
  more: readonly HeaderLine[] = [],
): Promise<Sent> {
  const send = (method: string, at: string, headers: readonly HeaderLine[], body?: Uint8Array) =>
    exchangeOver(transport, proxy.url, { method, target: at, headers: [...OWN, ...more, ...headers], body });
  const options = await send('OPTIONS', target, [VERSION]);
  const put = await openRequest(transport, proxy.url, {
    method: 'PUT',
    target,
    headers: [...OWN, ...more, TYPE, VERSION, ['Upload-Complete', '?1'], ['Content-Length', String(PHOTO.length)]],
  });
  const interim = await put.readInterim();
  expect([interim.status, interim.header('Upload-Draft-Interop-Version')]).toEqual([104, '6']);
  const upload = interim.header('Location')!;
  expect(upload).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/\.uploads\/[\w-]{32}$/);
  await put.send(PHOTO.subarray(0, CUT_AT));
  await untilSpooled(proxy.data, upload, CUT_AT);
  put.leave('reset');
  await put.close();
  const resource = new URL(upload).pathname;
  const head = await send('HEAD', resource, [TYPE, VERSION, ['Content-Length', '0']]);
  const offset = Number(head.header('Upload-Offset'));
  const rest = PHOTO.subarray(offset);
  const last = await send(
    'PATCH',
    resource,
    [
      VERSION,
      ['Content-Type', 'application/partial-upload'],
      ['Upload-Offset', String(offset)],
      ['Upload-Complete', '?1'],
      ['Content-Length', String(rest.length)],
    ],
    rest,
  );
  return { options, head, last };
}

function expectDiscovered({ options }: Sent): void {
  // The photo library gives up at anything but 200.
  expect(options.status).toBe(200);
  expect(options.header('Upload-Limit')).toMatch(/^(?:min-size=0, )?expires=\d+$|^max-size=\d+/);
}

function expectResumed({ head }: Sent): void {
  expect([head.status, head.header('Upload-Offset'), head.header('Upload-Complete')]).toEqual([204, `${CUT_AT}`, '?0']);
  expect(head.header('Upload-Length')).toBe(String(PHOTO.length));
}

describe('a WebDAV server behind the configuration of the guide', () => {
  let webdav: WebdavServer;
  let proxy: ProxyProcess;
  beforeAll(async () => {
    webdav = await WebdavServer.start();
    proxy = await startProxy({ config: shownConfig(webdav.url) });
    const collection = await exchangeOver('HTTP/1.1', proxy.url, { method: 'MKCOL', target: '/photos' });
    expect(collection.status).toBe(201);
  });
  afterAll(async () => {
    await proxy.stop();
    await webdav.stop();
  });

  test.each(TRANSPORTS)('gets one PUT of a photo that was cut, over %s', async (transport) => {
    const target = `/photos/IMG_0001-${transport.replace('/', '-')}.heic`;
    const sent = await sendPhoto(transport, proxy, target);
    expectDiscovered(sent);
    // What the server says of itself stays.
    expect([sent.options.header('DAV'), sent.options.header('Allow')]).toEqual([
      expect.stringContaining('1,2'),
      expect.stringContaining('PUT'),
    ]);
    expectResumed(sent);
    expect([sent.last.status, sent.last.header('Upload-Complete')]).toEqual([201, '?1']);
    expect(sha256(await webdav.file(target))).toBe(sha256(PHOTO));
    await until(async () => (await webdav.requests('PUT', target)).length > 0, 'the log of the WebDAV server');
    expect(await webdav.requests('PUT', target)).toEqual([{ method: 'PUT', path: target, status: 201 }]);
    // Sent again, it replaces the file, and the answer says so.
    const again = await sendPhoto(transport, proxy, target);
    expect([again.last.status, again.last.header('Upload-Complete')]).toEqual([204, '?1']);
  });

  test('refuses a photo that it has, where the app asks for that, and the client hears so', async () => {
    const target = '/photos/IMG_0002.heic';
    const condition: HeaderLine[] = [['If-None-Match', '*']];
    expect((await sendPhoto('HTTP/1.1', proxy, target, condition)).last.status).toBe(201);
    const again = await sendPhoto('HTTP/1.1', proxy, target, condition);
    expect([again.last.status, again.last.header('Upload-Complete')]).toEqual([412, '?1']);
    expect((await webdav.requests('PUT', target)).map(({ status }) => status)).toEqual([201, 412]);
  });

  test('tells with its own status that a folder is missing', async () => {
    const { last } = await sendPhoto('HTTP/1.1', proxy, '/photos/none/IMG_0003.heic');
    expect([last.status, last.header('Upload-Complete')]).toEqual([409, '?1']);
  });

  test('still takes what other WebDAV clients send', async () => {
    const target = '/photos/note.txt';
    const ask = (method: string, headers: HeaderLine[] = [], body?: string) =>
      exchangeOver('HTTP/1.1', proxy.url, { method, target, headers, body });
    expect((await ask('PUT', [], 'a note')).status).toBe(201);
    expect((await ask('GET')).body.toString()).toBe('a note');
    const found = await ask('PROPFIND', [['Depth', '0']]);
    expect([found.status, found.body.toString().includes('getcontentlength')]).toEqual([207, true]);
    expect((await ask('DELETE')).status).toBe(204);
  });
});

describe('an origin that records', () => {
  let origin: TestOrigin;
  let proxy: ProxyProcess;
  beforeAll(async () => {
    origin = await startTestOrigin();
    proxy = await startProxy({ config: shownConfig(origin.url) });
  });
  afterAll(async () => {
    await proxy.stop();
    await origin.close();
  });

  test.each([
    ['knows OPTIONS', 200],
    ['answers it without content', 204],
    ['does not know it', 404],
    ['forbids it', 405],
    ['has not implemented it', 501],
  ])('that %s gets the PUT as the phone began it, and nothing of the protocol', async (_, status) => {
    origin.requests.length = 0;
    origin.answerWith(({ method }) =>
      method === 'OPTIONS'
        ? { status }
        : {
            status: 201,
            headers: [
              ['ETag', '"1"'],
              ['X-Photo', '9'],
            ],
            body: '{"id":9}',
          },
    );
    const sent = await sendPhoto('HTTP/1.1', proxy, '/photos/IMG%200004.heic?album=7');
    expectDiscovered(sent);
    expectResumed(sent);
    // The app sees the fields of the answer.
    expect([
      sent.last.status,
      sent.last.header('ETag'),
      sent.last.header('X-Photo'),
      sent.last.body.toString(),
    ]).toEqual([201, '"1"', '9', '{"id":9}']);
    const puts = origin.requests.filter(({ method }) => method !== 'OPTIONS');
    expect(puts).toHaveLength(1);
    const [put] = puts;
    expect(put).toMatchObject({ method: 'PUT', target: '/photos/IMG%200004.heic?album=7', sha256: sha256(PHOTO) });
    const kept = [...OWN, TYPE, ['Content-Length', String(PHOTO.length)] as const];
    expect(kept.map(([name]) => [name, put!.header(name)])).toEqual(kept);
    const foreign = /^(?:upload-|tus-|expect$|transfer-encoding$|trailer$)/i;
    expect(put!.headers.filter(([name]) => foreign.test(name))).toEqual([]);
  });

  test('gets a photo by POST in the same way', async () => {
    origin.requests.length = 0;
    origin.answerWith({ status: 201 });
    const headers: HeaderLine[] = [...OWN, TYPE, VERSION, ['Upload-Complete', '?1']];
    const answer = await exchangeOver('HTTP/2', proxy.url, {
      method: 'POST',
      target: '/photos/',
      headers,
      body: PHOTO,
    });
    expect([answer.status, answer.interims.map(({ status }) => status)]).toEqual([201, [104]]);
    expect(origin.requests.map(({ method, size }) => [method, size])).toEqual([['POST', PHOTO.length]]);
  });
});
