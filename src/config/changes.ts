import { isDeepStrictEqual } from 'node:util';
import { adminGroupOf } from './admin.js';
import type { SettingPath } from './errors.js';
import type { Settings } from './schema.js';
import { isObject, listOf } from './values.js';

/**
 * The settings that cannot change while the proxy runs; `*` stands for every listener. Every other setting applies from
 * a reload on. Reasons: docs/decisions/0041.
 */
const FIXED_SETTINGS: readonly string[] = [
  'listen.*.address',
  'listen.*.http2',
  'listen.*.mode',
  'admin.address',
  'admin.mode',
  'data',
  'store',
  'spool',
  'secrets',
  'history',
  'cluster',
  'workers',
  'uploads.path',
  'http2',
  'limits.max_head',
  'limits.uploads',
  'log.format',
];

/** Whether the setting with this path, in which `*` or an index stands for a listener, needs a restart to change. */
export function isFixed(path: SettingPath): boolean {
  const name = path.map((step) => (typeof step === 'number' ? '*' : step)).join('.');
  return FIXED_SETTINGS.some((fixed) => name === fixed || name.startsWith(`${fixed}.`));
}

/** A setting that two configurations set differently. */
export interface SettingChange {
  readonly path: SettingPath;
  /** Undefined: the change can be applied while the proxy runs. Otherwise the reason why not. */
  readonly problem?: string;
}

/** The settings in which two configurations differ. A list other than `listen` counts as one setting. */
export function changedSettings(before: Settings, after: Settings): SettingChange[] {
  const { listeners: oldListeners, ...old } = comparable(before);
  const { listeners: newListeners, ...changed } = comparable(after);
  return [
    ...listenerChanges(oldListeners, newListeners),
    ...differences(old, changed, []).map((path) => (isFixed(path) ? { path, problem: NEEDS_RESTART } : { path })),
  ];
}

const NEEDS_RESTART = 'cannot change while the proxy runs; restart it, or set the former value again';
const OTHER_LISTENERS = 'listeners cannot be added or removed while the proxy runs; restart it';
const TLS_ON_OR_OFF = 'TLS cannot be added to a listener or removed from it while the proxy runs; restart it';

/** The settings in one form: every listener and `admin` as a group. */
function comparable({ listen, admin, ...others }: Settings) {
  const listeners = listOf(listen).map((each) => ('kind' in each ? { address: each, http2: true } : each));
  return { listeners, admin: adminGroupOf(admin), ...others };
}

type Listeners = ReturnType<typeof comparable>['listeners'];

function listenerChanges(before: Listeners, after: Listeners): SettingChange[] {
  if (before.length !== after.length) return [{ path: ['listen'], problem: OTHER_LISTENERS }];
  return after.flatMap((listener, index): SettingChange[] => {
    const path = ['listen', index];
    const old = before[index]!;
    if (('tls' in old && old.tls !== undefined) !== ('tls' in listener && listener.tls !== undefined))
      return [{ path: [...path, 'tls'], problem: TLS_ON_OR_OFF }];
    return differences(old, listener, path).map((changed) =>
      isFixed(changed) ? { path: changed, problem: NEEDS_RESTART } : { path: changed },
    );
  });
}

/** An address is one value, although it is an object. */
const isGroup = (value: unknown): value is Record<string, unknown> => isObject(value) && !('kind' in value);

function differences(before: unknown, after: unknown, path: SettingPath): SettingPath[] {
  if (!isGroup(before) || !isGroup(after)) return isDeepStrictEqual(before, after) ? [] : [path];
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return keys.flatMap((key) => differences(before[key], after[key], [...path, key]));
}
