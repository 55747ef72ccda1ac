/** Something that must hold for this process to take requests. */
export interface HealthCheck {
  readonly name: string;
  /** Resolves to what is wrong, for people; undefined when nothing is. */
  readonly check: () => Promise<string | ToldProblem | undefined>;
  /** It is told, but does not keep requests away: for what one upload suffers from, or what only some requests need. */
  readonly isOnlyTold?: true;
}

/** A problem that is told but keeps no requests away, where only the check itself can know that. */
export interface ToldProblem {
  readonly told: string;
}

export interface Readiness {
  readonly ready: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly problem?: string }[];
}

/** A disk or server that stands still must not make the question stand still too. */
const PATIENCE_MS = 2000;

/** Runs all checks side by side; one that throws or does not end counts as failed. */
export async function checkReadiness(checks: readonly HealthCheck[], patienceMs = PATIENCE_MS): Promise<Readiness> {
  const results = await Promise.all(
    checks.map(async ({ name, check, isOnlyTold }) => {
      const found = await outcome(check, patienceMs);
      if (found === undefined) return { ready: true, result: { name, ok: true } };
      const isTold = typeof found === 'object';
      const problem = isTold ? found.told : found;
      return { ready: isTold || isOnlyTold === true, result: { name, ok: false, problem } };
    }),
  );
  return { ready: results.every(({ ready }) => ready), checks: results.map(({ result }) => result) };
}

async function outcome(check: HealthCheck['check'], patienceMs: number): Promise<string | ToldProblem | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, patienceMs, `no answer within ${patienceMs} ms`);
  });
  try {
    return await Promise.race([check(), late]);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    clearTimeout(timer);
  }
}
