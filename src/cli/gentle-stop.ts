import type { Log } from '../observe/log.js';

/** Ends the process, gently if there is time: for signals, and for whoever else may ask. */
export class GentleStop {
  private running: { stop(): Promise<void> } | undefined;
  private stopping = false;
  private signalled = false;

  /** `done`: the last line of the log, when all went well. */
  constructor(
    private readonly log: Log,
    private readonly done: string,
  ) {
    const onSignal = (signal: NodeJS.Signals) => this.onSignal(signal);
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
    // Its default action would end the process at once, which no tool that sends it means.
    process.on('SIGHUP', () => this.log.warn({ signal: 'SIGHUP' }, SIGHUP_IGNORED));
  }

  /** Something runs that must be stopped from here on. */
  stops(running: { stop(): Promise<void> }): void {
    this.running = running;
  }

  /** May be asked again: it goes on stopping. */
  begin(): void {
    if (this.stopping) return;
    // While it is still starting there is nothing to keep.
    if (!this.running) process.exit(0);
    this.stopping = true;
    this.running.stop().then(
      () => {
        this.log.info(this.done);
        process.exit(0);
      },
      (error: unknown) => {
        this.log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  }

  /**
   * The first signal lets requests under way keep what they have, the second ends the process at once. The default
   * action would be ignored by the first process of a container. A terminal signals workers and their primary process
   * together: that it has asked them to stop already does not make theirs the second.
   */
  private onSignal(signal: NodeJS.Signals): void {
    if (this.signalled) process.exit(1);
    this.signalled = true;
    if (this.running) this.log.info({ signal }, 'stopping; a second signal ends at once');
    this.begin();
  }
}

const SIGHUP_IGNORED = 'SIGHUP changes nothing: a changed configuration needs a restart (SIGTERM, then a new start)';
