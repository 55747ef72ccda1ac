import { Fault } from '../../src/model/fault.js';
import type { UploadStore } from '../../src/store/upload-store.js';

/** What happens to a step: it is done; it is not; it is, and nobody hears of it. */
type Reach = 'there' | 'away' | 'silent';

/** The way to a store: it can be cut, before a step gets there or before its answer comes back. */
export class StoreReach {
  /** The steps that were asked for, in their order. */
  readonly asked: string[] = [];
  private reach: Reach = 'there';
  private verbs: ReadonlySet<string> | undefined;

  constructor(private readonly options: { readonly mayForget?: boolean } = {}) {}

  /** No step gets to the store any more; with verbs: none of these. */
  cut(...verbs: string[]): void {
    this.set('away', verbs);
  }

  /** Steps are done, but no answer comes back. */
  silence(...verbs: string[]): void {
    this.set('silent', verbs);
  }

  heal(): void {
    this.set('there', []);
  }

  /** How often a step was asked for. */
  count(verb: string): number {
    return this.asked.filter((name) => name === verb).length;
  }

  /** The store as it is seen over this way. */
  to<S extends UploadStore>(store: S): S {
    return new Proxy(store, {
      get: (target, name) => {
        if (name === 'canLoseConfirmedSteps') return this.options.mayForget ?? target.canLoseConfirmedSteps;
        const verb = Reflect.get(target, name) as unknown;
        if (typeof verb !== 'function') return verb;
        const take = (given: unknown[]): Promise<unknown> => Promise.resolve(Reflect.apply(verb, target, given));
        return (...given: unknown[]): Promise<unknown> => this.pass(String(name), () => take(given));
      },
    });
  }

  private set(reach: Reach, verbs: readonly string[]): void {
    this.reach = reach;
    this.verbs = verbs.length > 0 ? new Set(verbs) : undefined;
  }

  private async pass(verb: string, step: () => Promise<unknown>): Promise<unknown> {
    this.asked.push(verb);
    const reach = this.verbs && !this.verbs.has(verb) ? 'there' : this.reach;
    if (reach === 'away') throw unavailable();
    const result = await step();
    if (reach === 'silent') throw unavailable();
    return result;
  }
}

function unavailable(): Fault {
  return new Fault('STORE_UNAVAILABLE', 'the store was cut off by a test', true);
}
