import { once } from 'node:events';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, type RawClient, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { startProxy } from '../support/proxy-process.js';
import {
  type GroupContext,
  pinnedSettings,
  type SeenIn,
  type SettingGroup,
  settingsOf,
  testGroups,
} from '../support/settings.js';
import { makeCertificate, until, within } from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';
import { startTestApp } from '../support/test-proxy.js';

const TOKEN = 'the-token-of-the-settings';

const modeOf = (path: string): number => statSync(path).mode & 0o777;

async function shownCertificate({
  app,
}: GroupContext): Promise<{ certificate: string; protocol: string | false | null }> {
  const url = app.urls.find((each) => each.startsWith('https:'))!;
  const socket = connectTls({
    port: Number(new URL(url).port),
    rejectUnauthorized: false,
    ALPNProtocols: ['h2', 'http/1.1'],
  });
  await once(socket, 'secureConnect');
  const shown = { certificate: socket.getPeerX509Certificate()!.toString(), protocol: socket.alpnProtocol };
  socket.destroy();
  return shown;
}

const showsCertificate = async (context: GroupContext): Promise<void> =>
  expect((await shownCertificate(context)).certificate).toBe(readFileSync(join(context.directory, 'cert.pem'), 'utf8'));

const LISTENERS: SettingGroup = {
  name: 'listeners',
  config: (directory) => {
    const { cert, key } = makeCertificate();
    writeFileSync(join(directory, 'cert.pem'), cert);
    writeFileSync(join(directory, 'key.pem'), key);
    return `
listen:
  - unix:${directory}/plain.sock
  - { address: "unix:${directory}/group.sock", mode: '0606' }
  - { address: 127.0.0.1:0, http2: false, tls: { cert: ${directory}/cert.pem, key: ${directory}/key.pem } }
`;
  },
  effects: {
    listen: async ({ app, directory }) => {
      const response = await requestOnce(
        'http://a',
        { method: 'GET', target: '/' },
        { socketPath: `${directory}/plain.sock` },
      );
      expect([app.urls[0], response.status]).toEqual([`unix:${directory}/plain.sock`, 200]);
    },
    'listen.address': async ({ directory }) => {
      const response = await requestOnce(
        'http://a',
        { method: 'GET', target: '/' },
        { socketPath: `${directory}/group.sock` },
      );
      expect(response.status).toBe(200);
    },
    'listen.mode': ({ directory }) => {
      expect([modeOf(`${directory}/group.sock`), modeOf(`${directory}/plain.sock`)]).toEqual([0o606, 0o660]);
    },
    'listen.tls.cert': showsCertificate,
    'listen.tls.key': showsCertificate,
    'listen.http2': async (context) => expect((await shownCertificate(context)).protocol).toBe('http/1.1'),
  },
};

function adminStatus({ app }: GroupContext, path: string, headers: Record<string, string> = {}): Promise<number> {
  const lines = Object.entries(headers);
  return requestOnce(app.adminUrl!, { method: 'GET', target: path, headers: lines }).then(({ status }) => status);
}

const ADMIN: SettingGroup[] = [
  {
    name: 'the admin listener, with a token',
    config: (directory) => {
      writeFileSync(join(directory, 'token'), TOKEN, { mode: 0o600 });
      return `admin: { address: 127.0.0.1:0, token_file: ${directory}/token, open: [metrics], hosts: [ops.example] }`;
    },
    effects: {
      'admin.address': ({ app }) => expect(app.adminUrl).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/),
      'admin.token_file': async (context) => {
        const shown = [await adminStatus(context, '/uploads'), await adminStatus(context, '/uploads', bearer(TOKEN))];
        expect(shown).toEqual([401, 200]);
      },
      'admin.open': async (context) => {
        expect([await adminStatus(context, '/metrics'), await adminStatus(context, '/readyz')]).toEqual([200, 401]);
      },
      'admin.hosts': async (context) => {
        const asked = (Host: string): Promise<number> => adminStatus(context, '/metrics', { Host });
        expect([await asked('ops.example'), await asked('other.example')]).toEqual([200, 403]);
      },
    },
  },
  {
    name: 'the admin listener on a Unix socket',
    config: (directory) => `admin: { address: "unix:${directory}/admin.sock", mode: '0660' }`,
    effects: {
      'admin.mode': ({ directory }) => expect(modeOf(`${directory}/admin.sock`)).toBe(0o660),
    },
  },
  {
    name: 'the admin listener as an address',
    config: (directory) => `admin: "unix:${directory}/admin.sock"`,
    effects: {
      admin: async ({ directory }) => {
        const options = { socketPath: `${directory}/admin.sock` };
        expect((await requestOnce('http://a', { method: 'GET', target: '/healthz' }, options)).status).toBe(200);
      },
    },
  },
];

const bearer = (token: string): Record<string, string> => ({ Authorization: `Bearer ${token}` });

const CLIENT_LIMITS: SettingGroup[] = [
  {
    name: 'slow clients',
    config: () => 'limits: { idle_timeout: 100ms, head_timeout: 150ms }',
    effects: {
      'limits.idle_timeout': async ({ app }) => {
        const begin = async (lines: readonly HeaderLine[]): Promise<RawClient> => {
          const client = await connect(app.url);
          await client.sendHead('POST', '/x', [...lines, ['Content-Length', '10']]);
          await client.send('hello');
          return client;
        };
        const ordinary = await begin([]);
        expect((await ordinary.readFinal()).status).toBe(408);
        ordinary.destroy();
        // The client does not know of an upload, so no response would help it.
        await (await begin([['Upload-Complete', '?1']])).ended();
      },
      'limits.head_timeout': async ({ app }) => {
        const client = await connect(app.url);
        await client.send('GET / HTTP/1.1\r\nHost:');
        expect((await client.readFinal()).status).toBe(408);
        client.destroy();
      },
    },
  },
  {
    name: 'clients that read slowly',
    config: () => 'limits: { min_rate: { response: 1GB, window: 100ms } }',
    effects: {
      'limits.min_rate.response': async ({ app, origin }) => {
        origin.answerWith({ body: Buffer.alloc(30_000_000) });
        const client = await connect(app.url);
        // By default it would be fast enough.
        client.socket.on('data', () => {
          client.socket.pause();
          setTimeout(() => client.socket.resume(), 5);
        });
        await client.sendHead('GET', '/large');
        const isTold = ({ msg }: Record<string, unknown>): boolean =>
          msg === 'connection closed: the client read its response too slowly';
        await until(() => app.log.some(isTold), 'the connection to be closed');
        client.destroy();
      },
    },
  },
];

const NEW_UPLOAD: readonly HeaderLine[] = [
  ['Upload-Complete', '?0'],
  ['Upload-Length', '100'],
];

/** The status of a creation by the client with this number. */
async function createAs(client: number, { app }: GroupContext): Promise<number> {
  const headers: HeaderLine[] = [...NEW_UPLOAD, ['X-Forwarded-For', `192.0.2.${client}`]];
  return (await requestOnce(app.url, { method: 'POST', target: '/x', headers, body: '' })).status;
}

const limitedUploads = (limits: string): string => `trusted_proxies: [127.0.0.1]\nlimits: { uploads: { ${limits} } }`;

const UPLOAD_LIMITS: SettingGroup[] = [
  {
    name: 'the number of uploads',
    config: () => limitedUploads('total: 3, per_client: 2'),
    effects: {
      'limits.uploads.per_client': async (context) => {
        const statuses = [await createAs(1, context), await createAs(1, context), await createAs(1, context)];
        expect(statuses).toEqual([201, 201, 429]);
      },
      'limits.uploads.total': async (context) => {
        expect([await createAs(2, context), await createAs(2, context)]).toEqual([201, 503]);
      },
    },
  },
  {
    name: 'the bytes of a client',
    config: () => limitedUploads('bytes_per_client: 199'),
    effects: {
      'limits.uploads.bytes_per_client': async (context) => {
        const statuses = [await createAs(1, context), await createAs(1, context), await createAs(2, context)];
        expect(statuses).toEqual([201, 429, 201]);
      },
    },
  },
  {
    name: 'the speed of a client',
    config: () => limitedUploads('rate: 1, burst: 2'),
    effects: {
      'limits.uploads.burst': async (context) => {
        const statuses = [await createAs(1, context), await createAs(1, context), await createAs(1, context)];
        expect(statuses).toEqual([201, 201, 429]);
      },
      'limits.uploads.rate': async (context) => {
        await until(async () => (await createAs(1, context)) === 201, 'the next creation to be accepted');
      },
    },
  },
  {
    name: 'the size of heads',
    config: () => 'limits: { max_head: 4KiB }',
    effects: {
      'limits.max_head': async ({ app }) => {
        for (const [bytes, status] of [
          [3000, 200],
          [5000, 431],
        ] as const) {
          const request = { method: 'GET', target: '/x', headers: [['X-Long', 'a'.repeat(bytes)]] as HeaderLine[] };
          expect((await requestOnce(app.url, request)).status).toBe(status);
          const client = await connectH2(app.url);
          expect((await client.request(request)).status).toBe(status);
          await client.close();
        }
      },
    },
  },
];

const HTTP2: SettingGroup = {
  name: 'HTTP/2',
  config: () => 'http2: { stream_window: 70000, session_window: 90000, max_streams: 7 }',
  effects: {
    'http2.stream_window': async ({ app }) => expect((await toldOverHttp2(app.url)).initialWindowSize).toBe(70_000),
    'http2.session_window': async ({ app }) => expect((await toldOverHttp2(app.url)).sessionWindow).toBe(90_000),
    'http2.max_streams': async ({ app }) => expect((await toldOverHttp2(app.url)).maxConcurrentStreams).toBe(7),
  },
};

/** What the server has told of itself before its first response. */
async function toldOverHttp2(url: string) {
  const client = await connectH2(url);
  await client.request({ method: 'GET', target: '/' });
  const { remoteSettings, state } = client.session;
  await client.close();
  return { ...remoteSettings, sessionWindow: state.remoteWindowSize };
}

const LOCATION = 'flow/upload-location.test.ts';
const WHERE_UPLOADS_LIVE: SeenIn = { file: LOCATION, title: 'over %s, public_url says where uploads live' };
const PROXY_IS_TRUSTED: SeenIn = { file: LOCATION, title: 'over %s, a trusted proxy says what the client reached' };
const DRIPPING: SeenIn = { file: 'flow/slow-clients.test.ts', title: 'is ended, and what an upload had of it is kept' };
const ONE_MORE: SeenIn = {
  file: 'flow/connection-limits.test.ts',
  title: 'one more over %s is refused at once, until another has ended',
};

/** Existing tests that show the effect of a setting. */
const SEEN: Readonly<Record<string, SeenIn>> = {
  'listen.keep_alive': {
    file: 'flow/field-cases.test.ts',
    title: 'a listener with {…%s} says and keeps its time for idle connections',
  },
  'listen.tls.min_version': { file: 'flow/reload-tls.test.ts', title: 'changes the oldest version' },
  'listen.tls.client_ca': {
    file: 'flow/reload-tls.test.ts',
    title: 'asks clients for a certificate, also in resumed sessions (%s)',
  },
  'admin.insecure': {
    file: 'flow/cli.test.ts',
    title: 'does not start with an admin listener that others reach without a token, unless that is meant',
  },
  'uploads.path': WHERE_UPLOADS_LIVE,
  'uploads.public_url': WHERE_UPLOADS_LIVE,
  'uploads.rfc104': {
    file: LOCATION,
    title: 'the form without a version gets a 104 where that is switched on, without a version',
  },
  interim_responses: { file: LOCATION, title: 'interim_responses: %s sends %i interim response(s) whoever asks' },
  trusted_proxies: { file: LOCATION, title: 'what the origin is told of the client is the trusted chain' },
  'trusted_proxies.cidr': PROXY_IS_TRUSTED,
  'trusted_proxies.relays_interim': PROXY_IS_TRUSTED,
  'trusted_proxies.connection_per_client': {
    file: 'flow/connection-login.test.ts',
    title: 'that keeps its clients apart, a login holds for the connection',
  },
  'limits.min_rate.request': DRIPPING,
  'limits.min_rate.window': DRIPPING,
  'limits.connections.total': ONE_MORE,
  'limits.connections.per_address': ONE_MORE,
  alt_svc: {
    file: 'flow/answer-fields.test.ts',
    title: '%s as the answer to an append means what it means at the target, as often as it is asked for',
  },
  'log.format': { file: 'flow/cli.test.ts', title: 'says so in words when it is to be pretty' },
};

const GROUPS = [LISTENERS, ...ADMIN, ...CLIENT_LIMITS, ...UPLOAD_LIMITS, HTTP2];

testGroups(GROUPS);

/** Settings whose effect needs an end, or a process, of its own. */
const ALONE: Readonly<Record<string, () => Promise<void>>> = {
  'stop.grace': async () => {
    let release = (): void => undefined;
    const origin = await startTestOrigin({ after: new Promise<void>((resolve) => (release = resolve)) });
    const app = await startTestApp({ config: `origin: ${origin.url}\nstop: { grace: 50ms }\n` });
    const cut = requestOnce(app.url, { method: 'GET', target: '/' }).catch(() => 'cut');
    await until(() => origin.requests.length === 1, 'the request');
    await within(app.stop(), 'the stop', 10_000);
    expect(await cut).toBe('cut');
    release();
    await origin.close();
  },
  'log.level': async () => {
    const origin = await startTestOrigin((request) => ({ status: request.target === '/fails' ? 500 : 200 }));
    const proxy = await startProxy({ origin: origin.url, config: 'log: { level: warn }\n' });
    for (const target of ['/works', '/fails']) await requestOnce(proxy.url, { method: 'GET', target });
    const told = (): unknown[] => proxy.log.map(({ msg, target }) => target ?? msg);
    await until(() => told().includes('/fails'), 'a line at warn');
    expect(told()).toEqual(['listening', '/fails']);
    await proxy.stop();
    await origin.close();
  },
};

test.each(Object.entries(ALONE))('%s', (_, effect) => effect());

describe('rows', () => {
  const pinned = pinnedSettings([...GROUPS, { effects: ALONE }], SEEN);

  test('every setting of the proxy has one, and every row a setting', () => {
    expect(pinned.settings).toEqual(settingsOf('proxy'));
  });

  test('the tests that rows name exist', () => {
    expect(pinned.missing).toEqual([]);
  });
});
