import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from './client.js';
import { clientDialect, createUpload, type ResumableUpload } from './resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';
import { type OriginScript, startTestOrigin, type TestOrigin } from './test-origin.js';
import { startTestApp, type TestApp } from './test-proxy.js';
import type { WireRequest, WireResponse } from './wire.js';

/** An existing test that shows the effect of a setting through the configuration. */
export interface SeenIn {
  /** Path from `test/`. */
  readonly file: string;
  readonly title: string;
}

/** Which of the suites pins a setting. */
type Suite = 'delivery' | 'routes' | 'storage' | 'proxy';

const OF_STORAGE = new Set(['data', 'store', 'spool', 'secrets', 'history', 'cluster', 'workers']);

/**
 * Every setting of the schema that a suite pins, as `delivery.retry.attempts` or `routes.match.path`: those of
 * deliveries, the others that routes have or inherit, those of the storage, and the rest.
 */
export function settingsOf(suite: Suite): string[] {
  const all = [...new Set(leavesOf(jsonSchema(), ''))].sort();
  const known = new Set(all);
  const suiteOf = (setting: string): Suite => {
    if (/^(?:routes\.)?delivery\./.test(setting)) return 'delivery';
    if (setting.startsWith('routes.') || known.has(`routes.${setting}`)) return 'routes';
    return OF_STORAGE.has(setting.split('.', 1)[0]!) ? 'storage' : 'proxy';
  };
  return all.filter((setting) => suiteOf(setting) === suite);
}

/** The paths of all values in a form. A group that may also be written as a single value is a value, too. */
function leavesOf(form: JsonSchema, path: string): string[] {
  return alternatives(form).flatMap((each): string[] => {
    if (each.type === 'null') return [];
    if (each.properties && each.unit === undefined) {
      return Object.entries(each.properties).flatMap(([key, inner]) =>
        leavesOf(inner, path === '' ? key : `${path}.${key}`),
      );
    }
    return each.items ? leavesOf(each.items, path) : [path];
  });
}

/** The named tests that do not exist. */
export function missingTests(seen: readonly SeenIn[]): SeenIn[] {
  return seen.filter(({ file, title }) => {
    const path = fileURLToPath(new URL(`../${file}`, import.meta.url));
    return !existsSync(path) || !readFileSync(path, 'utf8').includes(`'${title}'`);
  });
}

/** A client that gives up long before a test does, so that an ignored limit is a clear failure. */
const DEADLINE_MS = 5000;

const FINAL = clientDialect('final');

/** The effects of one setting, at the top level or within a route: an app, a path of its own, and an origin and a service of its own. */
export class SettingProbe {
  private releaseHeld: () => void = () => undefined;
  private readonly held = new Promise<void>((resolve) => (this.releaseHeld = resolve));

  private constructor(
    /** Under which every request is for this setting. */
    readonly path: string,
    readonly origin: TestOrigin,
    /** The authorization service or the gate. */
    readonly service: TestOrigin,
  ) {}

  /** Set when the app has started. */
  app!: TestApp;

  static async open(path: string): Promise<SettingProbe> {
    return new SettingProbe(path, await startTestOrigin(), await startTestOrigin());
  }

  async close(): Promise<void> {
    this.releaseHeld();
    await Promise.all([this.origin.close(), this.service.close()]);
  }

  /** An answer that does not come before the test is over. */
  get silence(): OriginScript {
    return { after: this.held };
  }

  send(request: Omit<WireRequest, 'target'> & { readonly target?: string }): Promise<WireResponse> {
    const { target = `${this.path}/x` } = request;
    return requestOnce(this.app.url, { ...request, target }, { deadlineMs: DEADLINE_MS });
  }

  get(headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return this.send({ method: 'GET', headers });
  }

  /** An ordinary request with a body. */
  post(body = 'hello', headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return this.send({ method: 'POST', headers, body });
  }

  /** A whole upload in one request. */
  upload(body = 'hello', headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return this.post(body, [['Upload-Complete', '?1'], ...headers]);
  }

  /** An upload of which this much is there, and more is to come. */
  begin(body = '', headers: readonly HeaderLine[] = [], length?: number): Promise<ResumableUpload> {
    const creation = { method: 'POST', target: `${this.path}/x`, headers, body, length };
    return createUpload(FINAL, (request) => this.send(request), creation);
  }
}

type Effect = (probe: SettingProbe) => Promise<void>;

/** A setting of the top level that a route can replace. Its effect is the same at both levels. */
export interface SettingRow {
  readonly setting: string;
  /** The settings of one level, as YAML. */
  readonly value: (probe: SettingProbe) => string;
  readonly effect: Effect;
  /** Existing tests that show the effect at one level, where it is not tested again. */
  readonly seen: readonly SeenAt[];
}

/** A setting that only routes have. `PATH` in its route stands for the path of its requests. */
export interface RouteRow {
  readonly setting: string;
  readonly route: string;
  readonly effect: Effect;
}

type SeenAt = SeenIn & { readonly level: 'top' | 'route' };

export function row(
  setting: string,
  value: string | SettingRow['value'],
  effect: Effect,
  ...seen: SeenAt[]
): SettingRow {
  return { setting, value: typeof value === 'string' ? () => value : value, effect, seen };
}

export function seenAtTop(file: string, title: string): SeenAt {
  return { level: 'top', file, title };
}

export function seenInRoute(file: string, title: string): SeenAt {
  return { level: 'route', file, title };
}

/** `headers.original_url` needs a proxy that is trusted. */
const COMMON = 'trusted_proxies: [127.0.0.1]\n';

/**
 * Tests each setting at the top level of an app of its own, which gets it by a reload, and in a route of one app, which
 * starts with it, unless another test shows it there.
 */
export function testAtBothLevels(rows: readonly SettingRow[], ofRoutes: readonly RouteRow[] = []): void {
  const unseenAt = (level: SeenAt['level']): SettingRow[] =>
    rows.filter(({ seen }) => !seen.some((shown) => shown.level === level));

  describe('at the top level', () => {
    test.each(unseenAt('top'))('$setting', async ({ setting, value, effect }) => {
      const probe = await SettingProbe.open(`/${setting}`);
      const bare = `origin: ${probe.origin.url}\n${COMMON}`;
      probe.app = await startTestApp({ config: bare });
      try {
        // Within a route it applies from the start, here from a reload on.
        const { kind, ...reloaded } = await probe.app.reload(`${bare}${value(probe)}\n`);
        expect({ kind, ...reloaded }).toMatchObject({
          kind: 'applied',
          changed: expect.arrayContaining([expect.stringContaining(setting.split('.')[0]!)]),
        });
        await effect(probe);
      } finally {
        await probe.close();
        await probe.app.stop();
      }
    });
  });

  describe('within a route', () => {
    const tested = [...unseenAt('route'), ...ofRoutes];
    let app: TestApp;
    let probes: SettingProbe[];

    beforeAll(async () => {
      probes = await Promise.all(tested.map(({ setting }) => SettingProbe.open(`/${setting}`)));
      const routes = tested.map((each, at) => `  - { ${routeOf(each, probes[at]!)} }\n`);
      app = await startTestApp({ config: `origin: http://127.0.0.1:1\n${COMMON}routes:\n${routes.join('')}` });
      for (const probe of probes) probe.app = app;
    });
    afterAll(async () => {
      for (const probe of probes) await probe.close();
      await app.stop();
    });

    const cases = tested.map(({ setting, effect }, at) => [setting, effect, at] as const);
    test.each(cases)('%s', (_, effect, at) => effect(probes[at]!));
  });
}

function routeOf(tested: SettingRow | RouteRow, probe: SettingProbe): string {
  const origin = `origin: "${probe.origin.url}"`;
  if ('route' in tested) return `${tested.route.replaceAll('PATH', probe.path)}, ${origin}`;
  return `match: { path: ${probe.path}/** }, ${origin}, ${tested.value(probe).replaceAll('\n', ', ')}`;
}

/** What the effects of a group need: its app, the origin behind it, and a directory for files. */
export interface GroupContext {
  readonly app: TestApp;
  readonly origin: TestOrigin;
  readonly directory: string;
}

/** Settings that one app can have together, with the effect of each. */
export interface SettingGroup {
  readonly name: string;
  /** The configuration besides the origin, as YAML; `directory` is for the files that it names. */
  readonly config: (directory: string) => string | Promise<string>;
  readonly effects: Readonly<Record<string, (context: GroupContext) => Promise<void> | void>>;
}

/** Starts the app of each group from its configuration, and tests the effect of each of its settings. */
export function testGroups(groups: readonly SettingGroup[]): void {
  describe.each(groups)('$name', ({ config, effects }) => {
    let context: GroupContext;
    let temporary: TemporaryDirectory;

    beforeAll(async () => {
      temporary = await temporaryDirectory('rufh-settings-');
      const origin = await startTestOrigin();
      const text = `origin: ${origin.url}\n${await config(temporary.path)}\n`;
      context = { app: await startTestApp({ config: text }), origin, directory: temporary.path };
    });
    afterAll(async () => {
      await context.origin.close();
      await context.app.stop();
      await temporary.remove();
    });

    test.each(Object.entries(effects))('%s', (_, effect) => effect(context));
  });
}

/** The settings that groups and named tests pin, in order, and the named tests that do not exist. */
export function pinnedSettings(
  groups: readonly Pick<SettingGroup, 'effects'>[],
  seen: Readonly<Record<string, SeenIn>>,
): { readonly settings: string[]; readonly missing: SeenIn[] } {
  const settings = [...groups.flatMap(({ effects }) => Object.keys(effects)), ...Object.keys(seen)];
  return { settings: settings.sort(), missing: missingTests(Object.values(seen)) };
}
