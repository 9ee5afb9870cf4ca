-- Better Auth 1.7 with the plugins username, admin and api-key.
create table "user" ("id" text not null primary key, "name" text not null, "email" text not null unique, "emailVerified" integer not null, "image" text, "createdAt" date not null, "updatedAt" date not null, "username" text unique, "displayUsername" text, "role" text, "banned" integer, "banReason" text, "banExpires" date);
create table "session" ("id" text not null primary key, "expiresAt" date not null, "token" text not null unique, "createdAt" date not null, "updatedAt" date not null, "ipAddress" text, "userAgent" text, "userId" text not null references "user" ("id") on delete cascade, "impersonatedBy" text);
create table "account" ("id" text not null primary key, "accountId" text not null, "providerId" text not null, "userId" text not null references "user" ("id") on delete cascade, "accessToken" text, "refreshToken" text, "idToken" text, "accessTokenExpiresAt" date, "refreshTokenExpiresAt" date, "scope" text, "password" text, "createdAt" date not null, "updatedAt" date not null);
create table "verification" ("id" text not null primary key, "identifier" text not null, "value" text not null, "expiresAt" date not null, "createdAt" date not null, "updatedAt" date not null);
create table "apikey" ("id" text not null primary key, "configId" text not null, "name" text, "start" text, "referenceId" text not null, "prefix" text, "key" text not null, "refillInterval" integer, "refillAmount" integer, "lastRefillAt" date, "enabled" integer, "rateLimitEnabled" integer, "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, "remaining" integer, "lastRequest" date, "expiresAt" date, "createdAt" date not null, "updatedAt" date not null, "permissions" text, "metadata" text);
create index "session_userId_idx" on "session" ("userId");
create index "account_userId_idx" on "account" ("userId");
create index "verification_identifier_idx" on "verification" ("identifier");
create index "apikey_configId_idx" on "apikey" ("configId");
create index "apikey_referenceId_idx" on "apikey" ("referenceId");
create index "apikey_key_idx" on "apikey" ("key");

insert into "user" values ('u1', 'Ann', 'ann@example.test', 1, null, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', 'ann', 'Ann', 'admin', 0, null, null);
insert into "session" values ('s1', '2100-01-01T00:00:00.000Z', 'token-s1', '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '', '', 'u1', null);
insert into "apikey" ("id", "configId", "name", "key", "referenceId", "enabled", "rateLimitEnabled", "requestCount", "createdAt", "updatedAt", "permissions", "metadata") values ('k1', 'default', 'ci', 'digest-k1', 'u1', 1, 1, 0, '2024-02-01T10:20:30.123Z', '2024-02-01T10:20:30.123Z', '{"user":["list"]}', '{"a":1}');
