import { type Config, toConfig } from './config.js';
import { contradictions } from './contradictions.js';
import { explain, type Found } from './explain.js';
import { knownKeys } from './json-schema.js';
import { type Contradiction, settingName, type SettingPath, valueAt } from './mistake.js';
import { isObject } from './scalars.js';
import { schema, type Settings } from './schema.js';
import { warnings } from './warnings.js';

/** The configuration these settings make, everything that is wrong with them, and what is doubtful. */
export function check(settings: unknown): Checked {
  const parsed = schema.safeParse(settings);
  if (parsed.success) {
    const config = toConfig(parsed.data);
    const found = contradictions(config, parsed.data).map((one) => asFound(one, settings));
    return { config, found, doubts: warnings(config, parsed.data).map((one) => asFound(one, settings)) };
  }
  const wrong = explain(parsed.error.issues, settings, knownKeys);
  const rest = isObject(settings) ? withoutWrong(settings) : undefined;
  if (!rest) return { found: wrong, doubts: [] };
  const right = toConfig(rest);
  const found = [...wrong, ...contradictionsBeside({ wrong, settings, rest, right })];
  return { found, doubts: [], right };
}

export interface Checked {
  /** Missing where the settings are not what they should be; they may contradict each other all the same. */
  readonly config?: Config;
  readonly found: Found[];
  readonly doubts: Found[];
  /** The configuration that the right settings make, with defaults in place of the wrong ones. */
  readonly right?: Config;
}

interface Beside {
  readonly wrong: readonly Found[];
  readonly settings: unknown;
  readonly rest: Settings;
  readonly right: Config;
}

/**
 * Contradictions among the settings that are right: the wrong ones are taken out first, so that all mistakes are told
 * at once. What is in one section with a wrong setting is left for later.
 */
function contradictionsBeside({ wrong, settings, rest, right }: Beside): Found[] {
  const sections = new Set(wrong.flatMap(({ path }) => path.slice(0, Math.max(1, path.length - 1))));
  const isTouched = ({ path, against = [] }: Contradiction) =>
    [...path, ...against].some((step) => step !== 'routes' && typeof step === 'string' && sections.has(step));
  return contradictions(right, rest)
    .filter((contradiction) => !isTouched(contradiction))
    .map((one) => asFound(one, settings));
}

/** Takes wrong settings out until the rest is right; undefined when that does not come to an end soon. */
function withoutWrong(original: Record<string, unknown>): Settings | undefined {
  const settings = structuredClone(original);
  for (let round = 0; round < 5; round++) {
    const parsed = schema.safeParse(settings);
    if (parsed.success) return parsed.data;
    for (const { path } of explain(parsed.error.issues, settings, () => [])) takeOut(settings, path);
  }
  return undefined;
}

/** Removes a setting; where it is missing, or one of a list, what it belongs to. A missing origin is made up. */
function takeOut(settings: Record<string, unknown>, path: SettingPath): void {
  if (path.length === 1 && path[0] === 'origin') {
    settings['origin'] = 'http://127.0.0.1';
    return;
  }
  const [step, parent] = [path.at(-1), valueAt(settings, path.slice(0, -1))];
  if (isObject(parent) && typeof step === 'string' && step in parent) Reflect.deleteProperty(parent, step);
  else if (path.length > 1) takeOut(settings, path.slice(0, -1));
}

function asFound({ path, problem }: Contradiction, settings: unknown): Found {
  const written = asWritten(path, settings);
  return { path: written, atKey: false, mistake: { setting: settingName(written), problem } };
}

/** As the settings have it: one listener is no list, and so without a number; an address may stand for its group. */
function asWritten(path: SettingPath, settings: unknown): SettingPath {
  if (!isObject(settings)) return path;
  if (path[0] === 'listen' && !Array.isArray(settings['listen'])) return ['listen', ...path.slice(2)];
  return path[0] === 'admin' && !isObject(settings['admin']) ? ['admin'] : path;
}
