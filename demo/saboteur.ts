import type { Connection } from './client.js';

export type Misfortune = 'reset' | 'silence' | 'kill';

/** What goes wrong, and after which share of the file. */
const PLAN: readonly { readonly share: number; readonly misfortune: Misfortune }[] = [
  { share: 0.18, misfortune: 'reset' },
  { share: 0.4, misfortune: 'silence' },
  { share: 0.6, misfortune: 'kill' },
  { share: 0.82, misfortune: 'reset' },
];

/** Makes each misfortune happen once, when the upload comes to its place. */
export class Saboteur {
  cuts = 0;
  kills = 0;
  private next = 0;

  constructor(
    private readonly size: number,
    /** Told of each misfortune; killing is up to the one who is told. */
    private readonly tell: (misfortune: Misfortune, offset: number) => void,
  ) {}

  watch(offset: number, connection: Connection): void {
    const due = PLAN[this.next];
    if (!due || offset < this.size * due.share) return;
    this.next++;
    if (due.misfortune === 'kill') this.kills++;
    else this.cuts++;
    this.tell(due.misfortune, offset);
    if (due.misfortune === 'reset') connection.reset();
    if (due.misfortune === 'silence') connection.fallSilent();
  }
}
