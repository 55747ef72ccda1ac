import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type App, startApp } from '../../src/app/app.js';
import { TIMINGS, type Timings } from '../../src/app/storage.js';
import { loadConfig } from '../../src/config/load.js';
import { createLog, type Log } from '../../src/observe/log.js';
import { type TemporaryDirectory, temporaryDirectory } from './temporary.js';

export interface TestAppOptions {
  readonly origin: string;
  /** More settings, as YAML. */
  readonly config?: string;
  readonly data?: string;
  readonly timings?: Partial<Timings>;
}

/** The whole proxy in this process, on a free port and the embedded default. */
export interface TestApp {
  readonly url: string;
  readonly urls: readonly string[];
  readonly data: string;
  /** What it logged, as objects. */
  readonly log: readonly Record<string, unknown>[];
  readonly operators: App['admin'];
  stop(): Promise<void>;
}

/** Starts the app from a configuration; `stop` removes its data unless the directory was given. */
export async function startTestApp({ origin, config = '', data, timings }: TestAppOptions): Promise<TestApp> {
  const directory = await temporaryDirectory('rufh-app-');
  const file = join(directory.path, 'rufh-proxy.yaml');
  await writeFile(file, config);
  const dataDirectory = data ?? join(directory.path, 'data');
  const flags = { origin, data: dataDirectory, ...(/^listen:/m.test(config) ? {} : { listen: '127.0.0.1:0' }) };
  const loaded = loadConfig({ file, env: {}, flags });
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors, undefined, 2));
  const log: Record<string, unknown>[] = [];
  const app = await startApp({ ...loaded.config, admin: undefined }, collecting(log), undefined, {
    ...TIMINGS,
    ...timings,
  });
  const { urls, admin: operators } = app;
  return { url: urls[0]!, urls, data: dataDirectory, log, operators, stop: () => stop(app, directory) };
}

function collecting(lines: Record<string, unknown>[]): Log {
  const write = (line: string): void => void lines.push(JSON.parse(line) as Record<string, unknown>);
  return createLog({ level: 'info', format: 'json', destination: { write } });
}

async function stop(app: App, directory: TemporaryDirectory): Promise<void> {
  await app.stop();
  await directory.remove();
}
