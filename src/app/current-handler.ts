import type { HttpHandler, RefusedWork } from '../handler/handler.js';
import type { Relay } from '../proxy/peer-relay.js';
import type { CompiledConfig } from './current-config.js';

/** The parts of a configuration that a handler is built from. */
export type RequestSettings = Pick<CompiledConfig, 'config' | 'routes' | 'trust'>;

/** Passes each request to the handler of the configuration that applies when the request begins; it ends there. */
export class CurrentHandler implements Pick<HttpHandler, 'handle' | 'upgrade'> {
  private readonly refused: RefusedWork = { uploads: false, bodies: false };
  private readonly build: (settings: RequestSettings) => HttpHandler;
  private handler: HttpHandler;

  /** `build`: makes a handler that refuses the given work. */
  constructor(
    first: RequestSettings,
    build: (settings: RequestSettings, refused: Readonly<RefusedWork>) => HttpHandler,
    private readonly relay: Pick<Relay, 'drain'>,
  ) {
    this.build = (settings) => build(settings, this.refused);
    this.handler = this.build(first);
  }

  readonly handle: HttpHandler['handle'] = (...request) => this.handler.handle(...request);
  readonly upgrade: HttpHandler['upgrade'] = (...request) => this.handler.upgrade(...request);

  /** Requests that begin from now on follow this configuration. */
  use(settings: RequestSettings): void {
    this.handler = this.build(settings);
  }

  /** Refuses new uploads from now on, because other nodes should take them; existing uploads continue. */
  refuseNewUploads(): void {
    this.refused.uploads = true;
  }

  /** Accepts new uploads again. */
  acceptNewUploads(): void {
    this.refused.uploads = false;
  }

  /** Refuses new request bodies from now on and ends relayed ones; clients are told to try again. */
  drain(): void {
    this.refused.bodies = true;
    this.relay.drain();
  }
}
