/** src/index.ts is the whole public API: whoever holds something exported can also name the types of its parts. */
import ts from "typescript";
import { expect, test } from "vitest";

const root = new URL("../..", import.meta.url).pathname;

/** Interfaces, classes and aliases of src/ that `declaration` mentions in what it shows: bodies and private parts are no part of it. */
function mentioned(checker: ts.TypeChecker, declaration: ts.Node): ts.Symbol[] {
  const found: ts.Symbol[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isBlock(node)) return;
    if (ts.canHaveModifiers(node) && ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword))
      return;
    const name = ts.isTypeReferenceNode(node) ? node.typeName : undefined;
    let symbol = name && checker.getSymbolAtLocation(name);
    if (symbol && symbol.flags & ts.SymbolFlags.Alias) symbol = checker.getAliasedSymbol(symbol);
    if (symbol && symbol.flags & (ts.SymbolFlags.Interface | ts.SymbolFlags.Class | ts.SymbolFlags.TypeAlias))
      if (symbol.declarations?.some((one) => one.getSourceFile().fileName.startsWith(`${root}src/`)))
        found.push(symbol);
    ts.forEachChild(node, visit);
  };
  // A class that is exported as a type shows no constructor.
  if (ts.isClassDeclaration(declaration))
    for (const member of declaration.members) ts.isConstructorDeclaration(member) || visit(member);
  else if (
    ts.isVariableDeclaration(declaration) &&
    declaration.initializer &&
    ts.isArrowFunction(declaration.initializer)
  ) {
    const { parameters, type } = declaration.initializer;
    for (const part of [...parameters, ...(type ? [type] : [])]) visit(part);
  } else visit(declaration);
  return found;
}

test("every type that the public API mentions is exported by name", () => {
  const path = `${root}src/index.ts`;
  const { config } = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files: ["src/index.ts"] }, ts.sys, root);
  const program = ts.createProgram([path], options);
  const checker = program.getTypeChecker();
  const module = checker.getSymbolAtLocation(program.getSourceFile(path)!)!;
  const exported = new Map(
    checker.getExportsOfModule(module).map((symbol) => {
      const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
      return [target, symbol.name] as const;
    }),
  );
  expect(exported.size).toBeGreaterThan(60);
  const missing = new Set<string>();
  for (const [symbol, name] of exported)
    for (const declaration of symbol.declarations ?? [])
      for (const part of mentioned(checker, declaration))
        if (
          !exported.has(part) &&
          ts.getCombinedModifierFlags(part.declarations![0] as ts.Declaration) & ts.ModifierFlags.Export
        )
          missing.add(`${part.name} (of ${name})`);
  expect([...missing]).toEqual([]);
});
