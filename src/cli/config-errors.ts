import { describeError, type ConfigError } from '../config/errors.js';

/** Prints warnings on standard error, one per line. */
export function printWarnings(warnings: readonly ConfigError[] = []): void {
  for (const warning of warnings) process.stderr.write(`rufh-proxy: warning: ${describeError(warning)}\n`);
}

/** Prints all errors on standard error, one per line. */
export function printErrors(configErrors: readonly ConfigError[]): void {
  const count = configErrors.length === 1 ? 'one error' : `${configErrors.length} errors`;
  process.stderr.write(`rufh-proxy: ${count} in the configuration\n`);
  for (const configError of configErrors) process.stderr.write(`  ${describeError(configError)}\n`);
}
