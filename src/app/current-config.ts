import type { Config } from '../config/config.js';
import type { Routes } from '../model/route.js';
import type { TrustedProxies } from '../server/trusted-proxies.js';

/** A configuration with the parts that are made from it once. */
export interface CompiledConfig {
  readonly config: Config;
  readonly routes: Routes;
  readonly trust: TrustedProxies;
  /** The longest time for which an upload, answer or body may stay unchanged. */
  readonly longestAgeMs: number;
  /** Interval at which expired uploads are removed. */
  readonly cleanupEveryMs: number;
}

/** The configuration that applies now. Parts of the proxy that outlive a reload ask it each time. */
export class CurrentConfig {
  private longestMs: number;

  constructor(private compiled: CompiledConfig) {
    this.longestMs = compiled.longestAgeMs;
  }

  get now(): CompiledConfig {
    return this.compiled;
  }

  /** Never falls: uploads keep the age that applied when they began. */
  get longestAgeMs(): number {
    return this.longestMs;
  }

  /** The routes that apply at the time of each call. */
  readonly routes: Routes = currentRoutes(() => this.compiled.routes);

  use(next: CompiledConfig): void {
    this.compiled = next;
    this.longestMs = Math.max(this.longestMs, next.longestAgeMs);
  }
}

function currentRoutes(now: () => Routes): Routes {
  return {
    find: (method, path) => now().find(method, path),
    findIgnoringCase: (method, path) => now().findIgnoringCase(method, path),
    findResumable: (path) => now().findResumable(path),
    byName: (name) => now().byName(name),
    get hasProtected() {
      return now().hasProtected;
    },
    get all() {
      return now().all;
    },
  };
}
