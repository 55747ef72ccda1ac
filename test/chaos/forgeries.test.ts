import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { fieldKey } from '../../src/model/client-fields.js';
import type { HeaderLine } from '../../src/model/headers.js';
import {
  forgedNames,
  forgeries,
  type Forgery,
  IDENTITY,
  KINDS,
  MARK,
  type Peer,
  play,
  PRINCIPAL,
} from '../support/forgeries.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

// Issue 9, "done when" 2: nothing forged. Every request that a client can make, with everything that a client can make up.
const LANES = 8;
const LEAST = { 'a stranger': 400, 'a trusted proxy': 200 };

let auth: RawOrigin;
let origin: RawOrigin;

beforeAll(async () => {
  origin = await startRawOrigin(async (exchange) => {
    // A preflight by head alone brings its body to nobody who does not want it.
    if (exchange.header('Expect') !== undefined) return exchange.interim(100);
    await exchange.readBody();
    await exchange.respond({ status: 200, body: 'made' });
  });
  auth = await startRawOrigin(async (exchange) => {
    const isGood = exchange.header('Authorization') === 'good';
    await exchange.respond(isGood ? { status: 200, headers: [...IDENTITY, PRINCIPAL] } : { status: 401, body: 'who?' });
  });
});
afterAll(async () => {
  await origin.close();
  await auth.close();
});

const CONFIG = (peer: Peer): string => `
trusted_proxies: ${peer === 'a stranger' ? '[]' : '[127.0.0.1/32]'}
headers: { underscores: ${peer === 'a stranger' ? 'drop' : 'pass'} }
authorize:
  forward_auth: { url: "${auth.url}/check", copy_headers: [${IDENTITY.map(([name]) => name).join(', ')}], principal_header: ${PRINCIPAL[0]} }
routes:
  - match: { path: /spooled/** }
    plain_bodies: spool
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /asked/** }
    authorize: { preflight: true }
  - match: { path: /form/** }
    delivery: { framing: multipart }
  - match: { path: /bound/** }
    bind_to: principal
  - match: { path: /** }
`;

/** Plays all of them, a few at a time. */
async function playAll(app: TestApp, all: readonly Forgery[]): Promise<void> {
  const queue = [...all];
  const lane = async (): Promise<void> => {
    for (let next = queue.shift(); next; next = queue.shift()) await play(app.url, next);
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}

const TARGETS = /^\/(?:files|spooled|eager|asked|form|bound|\.uploads)\//;

/** Lines of this name in whatever spelling. */
function said({ headerLines, body }: RawExchange, name: string): HeaderLine[] {
  return [...headerLines, ...body.trailers].filter(([field]) => fieldKey(field) === fieldKey(name));
}

function textOf({ headText, body }: RawExchange): string {
  return `${headText}${body.trailers.map(([name, value]) => `${name}: ${value}\n`).join('')}`;
}

const numberOf = (exchange: RawExchange): number => Number(exchange.header('X-Number') ?? NaN);

describe.each(['a stranger', 'a trusted proxy'] as const)('sent by %s', (peer) => {
  const all = [...forgeries(peer, 20_260_901, LEAST[peer])];
  let app: TestApp;

  beforeAll(async () => {
    origin.exchanges.length = 0;
    auth.exchanges.length = 0;
    app = await startTestApp({ origin: origin.url, config: CONFIG(peer) });
    await playAll(app, all);
    // What was taken into the spool is delivered, whoever still waits for it.
    const due = all.filter(({ kind, credentials }) => KINDS[kind].reachesOrigin && credentials === 'good');
    const seen = (): Set<number> => new Set(origin.exchanges.map(numberOf));
    const missing = (): Forgery[] => due.filter(({ number }) => !seen().has(number));
    await until(
      () => missing().length === 0,
      () => `at the origin: ${JSON.stringify(missing().slice(0, 3))}`,
    );
  });
  afterAll(() => app.stop());

  test('all is tried: each kind with each credentials, and each name in each spelling', () => {
    expect(all.length).toBeGreaterThanOrEqual(LEAST[peer]);
    const used = new Set(all.flatMap(({ fields }) => fields.map(([name]) => name)));
    expect(forgedNames(peer).filter((name) => !used.has(name))).toEqual([]);
    expect(new Set(all.map(({ kind }) => kind)).size).toBe(Object.keys(KINDS).length);
  });

  test('nothing that was made up reaches the origin or the authorization service', () => {
    for (const server of [origin, auth])
      expect(server.exchanges.map(textOf).filter((text) => text.toLowerCase().includes(MARK))).toEqual([]);
    expect(app.log.filter(({ msg }) => msg === 'request failed unexpectedly')).toEqual([]);
  });

  test('nobody reaches the origin whom the service does not let in, and each as whom it says', () => {
    const wrong = origin.exchanges.filter(
      (exchange) =>
        all[numberOf(exchange)]?.credentials !== 'good' ||
        exchange.target.startsWith('/.uploads') ||
        said(exchange, PRINCIPAL[0]).length > 0 ||
        IDENTITY.some(([name, value]) => JSON.stringify(said(exchange, name)) !== JSON.stringify([[name, value]])),
    );
    expect(wrong.map(textOf)).toEqual([]);
  });

  test('the service is told once what is asked for, as it is', () => {
    const wrong = auth.exchanges.filter(
      (exchange) =>
        ['X-Forwarded-Method', 'X-Forwarded-Uri', 'X-Forwarded-Host'].some(
          (name) => said(exchange, name).length !== 1,
        ) ||
        !TARGETS.test(said(exchange, 'X-Forwarded-Uri')[0]![1]) ||
        [...IDENTITY, PRINCIPAL].some(([name]) => said(exchange, name).length > 0),
    );
    expect(wrong.map(textOf)).toEqual([]);
    const asked = new Set(auth.exchanges.map(numberOf));
    const unasked = all.filter(({ kind, number }) => KINDS[kind].reachesOrigin && !asked.has(number));
    expect(unasked).toEqual([]);
  });
});
