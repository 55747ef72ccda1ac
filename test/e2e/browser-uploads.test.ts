import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { Page } from 'playwright-core';
import { apiUrl, call, TestBrowser } from '../support/browser.js';
import { Front, FRONTS } from '../support/front-proxies.js';
import { CuttingProxy } from '../support/network.js';
import {
  randomBytes,
  seededRandom,
  sha256,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
  within,
} from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { rounds, seed } from '../support/thoroughness.js';

// Issue 13: Uppy and our client in Chromium, from another web origin and with credentials, through a network that fails.

const FILE = randomBytes(6_000_000, 13);
const NAME = 'ä b.png';
const MIB = 1024 * 1024;

/** What a page says of an upload that ended. */
interface Ending {
  readonly status?: number;
  readonly body?: string;
  /** Addresses of uploads that the page still keeps. */
  readonly stored?: number;
  readonly error?: string;
}

interface Client {
  readonly name: string;
  readonly script: string;
  /** The field for files, and the button that starts the upload. */
  readonly field: string;
  readonly button: string;
  /** It keeps the address of an upload that has ended. */
  readonly keepsAddress?: true;
  readonly query: (random: () => number) => Readonly<Record<string, string>>;
}

const CLIENTS: readonly Client[] = [
  {
    name: 'Uppy',
    script: 'uppy.mjs',
    field: '.uppy-Dashboard-input >> nth=0',
    button: '.uppy-StatusBar-actionBtn--upload',
    keepsAddress: true,
    query: (random) => ({ chunkSize: random() < 0.5 ? 'Infinity' : `${Math.ceil((0.5 + random()) * MIB)}` }),
  },
  { name: 'our client', script: 'resumable-fetch.mjs', field: '#file', button: '#send', query: () => ({}) },
];

/** How requests get to the proxy. */
const WAYS = [
  { way: 'the proxy directly', scheme: 'http', protocol: 'http/1.1' },
  { way: 'nginx with TLS and HTTP/2', scheme: 'https', protocol: 'h2' },
] as const;

let browser: TestBrowser;
let origin: TestOrigin;
let app: TestApp;
let front: Front;
let directory: TemporaryDirectory;
let path: string;
beforeAll(async () => {
  directory = await temporaryDirectory('rufh-browser-uploads-');
  path = join(directory.path, NAME);
  await writeFile(path, FILE);
  browser = await TestBrowser.start(CLIENTS.map(({ script }) => script));
  origin = await startTestOrigin();
  const pages = WAYS.map(({ scheme }) => `"${browser.webOrigin(scheme)}"`).join(', ');
  const config = `trusted_proxies: [{ cidr: 127.0.0.1 }]
cors: { allow_origins: [${pages}], allow_credentials: true }
routes: [{ match: { path: /files/** }, delivery: { target: "/files/{filename}" }, bind_to: [Cookie] }]
`;
  app = await startTestApp({ origin: origin.url, config });
  const { host } = new URL(app.url);
  front = await Front.start(
    FRONTS.find(({ name }) => name === 'nginx')!,
    { proxy: host, application: host },
  );
});
afterAll(async () => {
  await browser.close();
  await front.stop();
  await app.stop();
  await origin.close();
  await directory.remove();
});

describe.each(WAYS)('through $way', ({ scheme, protocol }) => {
  describe.each(CLIENTS)('$name', (client) => {
    const open: (() => Promise<unknown>)[] = [];
    afterEach(async () => {
      for (const close of open.splice(0).reverse()) await close();
    });

    /** A page with the client, and a network of its own in front of the API. */
    async function visit(random: () => number): Promise<{ readonly page: Page; readonly network: CuttingProxy }> {
      const target = scheme === 'http' ? app.url : front.url;
      const network = await CuttingProxy.start(Number(new URL(target).port));
      open.push(() => network.stop());
      const endpoint = apiUrl(`${scheme}://127.0.0.1:${network.port}/files/new`);
      const page = await browser.open(client.script, { scheme, query: { endpoint, ...client.query(random) } });
      open.push(() => page.context().close());
      await page
        .context()
        .addCookies([{ name: 'session', value: 'secret', url: new URL('/', endpoint).href, httpOnly: true }]);
      origin.requests.length = 0;
      answer();
      return { page, network };
    }

    /** The origin allows every page, as many do; with credentials that is not enough for a browser. */
    function answer(before: () => Promise<unknown> = () => Promise.resolve()): void {
      const headers = [['Access-Control-Allow-Origin', '*']] as const;
      origin.answerWith(() => ({ status: 201, headers, body: 'stored', after: before() }));
    }

    async function send(page: Page): Promise<void> {
      await page.setInputFiles(client.field, path);
      await page.click(client.button);
    }

    /** The page has the answer of the origin, which got the file once. */
    async function expectStored(page: Page): Promise<void> {
      const ending = await within(call<Ending>(page, 'ended'), 'the end of the upload', 60_000);
      expect(ending).toEqual({ status: 201, body: 'stored', stored: client.keepsAddress ? undefined : 0 });
      const seen = origin.requests.map((request) => ({
        request: `${request.method} ${request.target}`,
        type: request.header('Content-Type'),
        cookie: request.header('Cookie'),
        sha256: request.sha256,
      }));
      expect(seen).toEqual([
        {
          request: `POST /files/${encodeURIComponent(NAME)}`,
          type: 'image/png',
          cookie: 'session=secret',
          sha256: sha256(FILE),
        },
      ]);
    }

    test.each(Array.from({ length: rounds(1, 12) }, (_, round) => seed + round))(
      'the network is cut at random (seed %i)',
      async (roundSeed) => {
        const random = seededRandom(roundSeed);
        const { page, network } = await visit(random);
        const protocols = await usedProtocols(page);
        const cuts = cutAt(
          network,
          [0, 1, 2, 3].map(() => random() * FILE.length * 1.1).sort((a, b) => a - b),
        );
        // The origin has the file, and its answer is lost.
        let isLost = random() < 0.5;
        answer(async () => {
          if (!isLost) return;
          isLost = false;
          await network.cut();
          await network.restore();
        });
        await send(page);
        await expectStored(page);
        expect(cuts()).toBeGreaterThan(0);
        expect([...protocols]).toEqual([protocol]);
      },
    );

    test.each(Array.from({ length: rounds(1, 6) }, (_, round) => seed + round))(
      'the page is reloaded in the middle (seed %i)',
      async (roundSeed) => {
        const random = seededRandom(roundSeed);
        const { page, network } = await visit(random);
        const hangsAt = (0.2 + random() * 0.6) * FILE.length;
        let hangs = false;
        network.onBytesThere = () => {
          if (hangs || network.bytes < hangsAt) return;
          hangs = true;
          network.hang();
        };
        await send(page);
        await until(() => hangs, 'the middle of the upload');
        await page.reload();
        await network.cut();
        const bytesBefore = network.bytes;
        await network.restore();
        await send(page);
        await expectStored(page);
        expect(network.bytes - bytesBefore).toBeLessThan(FILE.length * 0.9);
      },
    );

    test('the browser goes offline and comes back', async () => {
      const { page, network } = await visit(seededRandom(seed));
      let hangs = false;
      network.onBytesThere = () => {
        if (hangs || network.bytes < FILE.length / 2) return;
        hangs = true;
        network.hang();
      };
      await send(page);
      await until(() => hangs, 'the middle of the upload');
      await page.context().setOffline(true);
      await network.cut();
      await network.restore();
      const { connections } = network;
      await page.context().setOffline(false);
      await expectStored(page);
      expect(network.connections).toBeGreaterThan(connections);
    });
  });
});

/** Cuts the network when so many bytes have come through, once for each number, and mends it at once. */
function cutAt(network: CuttingProxy, positions: readonly number[]): () => number {
  let cuts = 0;
  network.onBytesThere = () => {
    if (cuts >= positions.length || network.bytes < positions[cuts]!) return;
    cuts += 1;
    void network.cut();
    void network.restore();
  };
  return () => cuts;
}

/** The HTTP versions of the responses that the API gives to the page. */
async function usedProtocols(page: Page): Promise<ReadonlySet<string>> {
  const protocols = new Set<string>();
  const session = await page.context().newCDPSession(page);
  session.on('Network.responseReceived', ({ response }) => {
    if (response.url.includes('//api.')) protocols.add(response.protocol ?? '');
  });
  await session.send('Network.enable');
  return protocols;
}
