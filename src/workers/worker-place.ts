/** Which of the workers a process is. */
export interface WorkerPlace {
  /** From 1; the one that takes the place of a worker that ended has the same. */
  readonly number: number;
  /** Others listen already on what this one will listen on. */
  readonly isLater: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Undefined: this process was not forked by a primary of ours. */
export function workerPlace(env: Environment): WorkerPlace | undefined {
  const number = env['RUFH_WORKER'];
  return number === undefined ? undefined : { number: Number(number), isLater: env['RUFH_WORKER_LATER'] === 'yes' };
}

/** The variables that tell a process its place. */
export function placeVariables({ number, isLater }: WorkerPlace): Record<string, string> {
  return { RUFH_WORKER: String(number), RUFH_WORKER_LATER: isLater ? 'yes' : 'no' };
}
