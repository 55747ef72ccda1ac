import regexp from 'eslint-plugin-regexp';
import tseslint from 'typescript-eslint';
import prettier from 'eslint-config-prettier';

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'coverage/', '.cache/'] },
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked, prettier],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
      'max-lines': ['warn', { max: 500, skipBlankLines: false }],
      'no-console': 'error',
    },
  },
  {
    // A pattern that takes more than linear time lets one request hold up everybody's.
    files: ['src/**/*.ts'],
    plugins: { regexp },
    rules: {
      'regexp/no-super-linear-backtracking': 'error',
      'regexp/no-super-linear-move': ['error', { report: 'potential' }],
    },
  },
  {
    files: ['test/**/*.ts', 'bench/**/*.ts', 'demo/**/*.ts'],
    rules: { 'no-console': 'off', '@typescript-eslint/no-unused-expressions': 'off' },
  },
  {
    // A length of time by a clock that may be set blocks an origin, or ends an upload, when it is.
    files: ['src/**/*.ts'],
    rules: {
      'no-restricted-properties': [
        'error',
        {
          object: 'Date',
          property: 'now',
          message: 'Measure lengths of time with performance.now(); ask for a clock.',
        },
      ],
    },
  },
  {
    // Those that hand the clock of the wall to all others, show times to people, or read the dates of files
    // and of responses.
    files: [
      'src/app/app.ts',
      'src/cli/uploads.ts',
      'src/client/wait.ts',
      'src/fs/files.ts',
      'src/spool/shared-directory.ts',
      'src/store/embedded/{boot,directory-lock,embedded-store,load,record-lines,records}.ts',
      'src/store/redis/connection.ts',
    ],
    rules: { 'no-restricted-properties': 'off' },
  },
);
