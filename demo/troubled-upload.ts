import { ResumableUploader, type Answer, type Connection, type Watcher } from './client.js';
import type { DemoFile } from './file.js';
import { Saboteur, type Misfortune } from './saboteur.js';
import { mebibytes, type Screen } from './screen.js';

/** How an upload went. */
export interface Told {
  readonly answer: Answer;
  readonly cuts: number;
  readonly kills: number;
  /** An offset was lower than one shown before. */
  readonly wentBack: boolean;
  /** All bytes given to the network, those included that had to be sent again. */
  readonly sentBytes: number;
}

export interface Stage {
  readonly file: DemoFile;
  /** Where the file goes. */
  readonly url: string;
  /** Kills the proxy and starts it again on the same port and data; fulfilled with how long that took. */
  readonly killProxy: () => Promise<number>;
}

/** Whatever the file's size, the upload takes about this long. */
const UPLOAD_SECONDS = 8;

/** One upload with everything going wrong, told on the screen while it happens. */
export class TroubledUpload implements Watcher {
  private sentTo = 0;
  private safeTo = 0;
  private sentBytes = 0;
  private wentBack = false;
  private note: string | undefined;
  private readonly saboteur: Saboteur;
  private giveUp: (error: unknown) => void = () => undefined;

  constructor(
    private readonly setup: Stage,
    private readonly screen: Screen,
  ) {
    this.saboteur = new Saboteur(setup.file.size, (misfortune, offset) => this.suffer(misfortune, offset));
  }

  async run(): Promise<Told> {
    const { file, url } = this.setup;
    const headers = { 'Content-Type': 'application/octet-stream', Authorization: 'Bearer demo' };
    const plan = { file: file.path, size: file.size, target: url, headers, bytesPerSecond: file.size / UPLOAD_SECONDS };
    const broken = new Promise<never>((_, reject) => (this.giveUp = reject));
    try {
      const answer = await Promise.race([new ResumableUploader(plan, this).upload(), broken]);
      this.screen.hide();
      this.screen.event('✔', 'green', file.size, `${answer.status} ${answer.reason}: the origin's own answer`);
      const { cuts, kills } = this.saboteur;
      return { answer, cuts, kills, wentBack: this.wentBack, sentBytes: this.sentBytes };
    } finally {
      this.screen.hide();
    }
  }

  resumable(url: string): void {
    this.screen.event('✔', 'green', 0, `104: the proxy offers to resume, at ${shortened(url)}`);
  }

  sending(method: 'POST' | 'PATCH', offset: number): void {
    this.sentTo = offset;
    this.show();
    if (method === 'PATCH') this.screen.event('↻', 'cyan', offset, 'PATCH: the rest, from there on');
  }

  sent(offset: number, connection: Connection): void {
    this.sentBytes += offset - this.sentTo;
    this.sentTo = offset;
    this.show();
    this.saboteur.watch(offset, connection);
  }

  acknowledged(offset: number): void {
    if (offset < this.safeTo) this.wentBack = true;
    this.safeTo = offset;
    this.show(this.note);
  }

  lost(): void {
    this.show('coming back …');
  }

  asked(offset: number, tookMs: number): void {
    this.acknowledged(offset);
    this.screen.event('?', 'yellow', offset, `HEAD: the proxy has this much (answered in ${tookMs.toFixed(0)} ms)`);
  }

  waiting(): void {
    this.show('the origin gets it …');
  }

  private suffer(misfortune: Misfortune, offset: number): void {
    this.screen.event(misfortune === 'kill' ? '☠' : '✂', 'red', offset, TOLD[misfortune]);
    if (misfortune !== 'kill') return;
    this.setup.killProxy().then(
      (tookMs) => this.screen.event('✔', 'green', undefined, `proxy started again (${tookMs} ms)`),
      (error: unknown) => this.giveUp(error),
    );
  }

  private show(note?: string): void {
    this.note = note;
    this.screen.show({ total: this.setup.file.size, sent: this.sentTo, safe: this.safeTo, note });
  }
}

const TOLD: Record<Misfortune, string> = {
  reset: 'connection cut',
  silence: 'connection gone dead: no more bytes, and no goodbye',
  kill: 'proxy killed (SIGKILL)',
};

function shortened(url: string): string {
  const { pathname } = new URL(url);
  return pathname.length > 24 ? `${pathname.slice(0, 23)}…` : pathname;
}

/** How much the trouble cost. */
export function sentAgain(told: Told, file: DemoFile): string {
  return mebibytes(Math.max(told.sentBytes - file.size, 0));
}
