/** Prints an error and sets the exit code. */
export function failWith(message: string, code: number): void {
  process.stderr.write(`rufh-proxy: ${message}\n`);
  process.exitCode = code;
}
