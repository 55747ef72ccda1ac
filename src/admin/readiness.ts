/** Something that must hold for this process to take requests. */
export interface HealthCheck {
  readonly name: string;
  /** What is wrong, for people; undefined when nothing is. */
  readonly check: () => Promise<string | undefined>;
  /** It is told, but does not keep requests away: for what one upload suffers from, or what only some requests need. */
  readonly isOnlyTold?: true;
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
    checks.map(async ({ name, check }) => {
      const problem = await outcome(check, patienceMs);
      return { name, ok: problem === undefined, ...(problem === undefined ? {} : { problem }) };
    }),
  );
  const told = new Set(checks.filter(({ isOnlyTold }) => isOnlyTold).map(({ name }) => name));
  return { ready: results.every(({ ok, name }) => ok || told.has(name)), checks: results };
}

async function outcome(check: HealthCheck['check'], patienceMs: number): Promise<string | undefined> {
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
