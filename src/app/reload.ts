import { changedSettings } from '../config/changes.js';
import type { Config } from '../config/config.js';
import { type ConfigError, describeError, settingName, type SettingPath } from '../config/errors.js';
import type { LoadedConfig } from '../config/load.js';
import type { Settings } from '../config/schema.js';
import type { Log } from '../observe/log.js';

/** The place where the configuration of a running proxy comes from. */
export interface ConfigSource {
  /** The settings with which the proxy was started. */
  readonly settings: Settings;
  load(): LoadedConfig;
  /** Adds to a problem the place where its setting was set. */
  locate(path: SettingPath, problem: string): ConfigError;
}

/** The result of a reload. Unless it is `applied`, the former configuration still applies as a whole. */
export type ReloadResult =
  | { readonly kind: 'applied'; readonly changed: readonly string[]; readonly warnings: readonly ConfigError[] }
  /** The configuration is invalid, or changes settings that need a restart. */
  | { readonly kind: 'refused'; readonly errors: readonly ConfigError[] }
  /** A valid configuration could not be put into use. */
  | { readonly kind: 'failed'; readonly problem: string };

/** Reloads the configuration; undefined until the proxy has started. */
export type Reload = () => Promise<ReloadResult>;

export interface ReloaderOptions {
  readonly source: ConfigSource;
  /** Puts a configuration into use. Rejects if it cannot; nothing may have changed then. */
  readonly apply: (config: Config) => Promise<void>;
  readonly onReload: (result: ReloadResult['kind']) => void;
  readonly log: Log;
}

/** Loads the configuration again and puts it into use as a whole, or not at all. Reasons: docs/decisions/0041. */
export class Reloader {
  private settings: Settings;
  private last: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: ReloaderOptions) {
    this.settings = options.source.settings;
  }

  /** Never rejects. A reload begins when the one before has ended. */
  readonly reload: Reload = () => {
    const result = this.last.then(() => this.reloadNow());
    this.last = result;
    return result;
  };

  private async reloadNow(): Promise<ReloadResult> {
    const { log, onReload } = this.options;
    const result = await this.attempt().catch((error: unknown) => {
      log.error({ err: error }, 'the configuration could not be put into use; the former one still applies');
      return { kind: 'failed', problem: error instanceof Error ? error.message : String(error) } as const;
    });
    onReload(result.kind);
    this.report(result);
    return result;
  }

  private async attempt(): Promise<ReloadResult> {
    const { source, apply } = this.options;
    const loaded = source.load();
    if ('configErrors' in loaded) return { kind: 'refused', errors: loaded.configErrors };
    const { config, settings, warnings = [] } = loaded;
    const changes = changedSettings(this.settings, settings);
    const errors = changes.flatMap(({ path, problem }) =>
      problem === undefined ? [] : [source.locate(path, problem)],
    );
    if (errors.length > 0) return { kind: 'refused', errors };
    await apply(config);
    this.settings = settings;
    return { kind: 'applied', changed: changes.map(({ path }) => settingName(path)), warnings };
  }

  private report(result: ReloadResult): void {
    const { log } = this.options;
    if (result.kind === 'applied') {
      const { changed, warnings } = result;
      for (const warning of warnings) log.warn({ problem: describeError(warning) }, 'warning about the configuration');
      log.info({ changed }, 'the configuration was reloaded');
    } else if (result.kind === 'refused')
      log.error(
        { errors: result.errors.map(describeError) },
        'the configuration was refused; the former one still applies',
      );
  }
}
