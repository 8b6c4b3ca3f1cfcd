-- A database of schema version 1 as banger wrote it. Never edited: what is in it must
-- stay readable for ever.
PRAGMA application_id = 1650552423;
PRAGMA user_version = 1;
CREATE TABLE images (
	id         TEXT PRIMARY KEY,
	name       TEXT UNIQUE,
	record     TEXT NOT NULL,
	created_at TEXT NOT NULL
) STRICT;
CREATE TABLE vms (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	image_id   TEXT NOT NULL REFERENCES images (id),
	state      TEXT NOT NULL,
	op         TEXT NOT NULL,
	record     TEXT NOT NULL,
	created_at TEXT NOT NULL
) STRICT;
CREATE INDEX vms_by_image ON vms (image_id);
INSERT INTO images VALUES ('00112233aabbccdd', 'debian-12',
	'{"ID":"00112233aabbccdd","Name":"debian-12","Source":"oci:/layouts/debian-12","Digest":"sha256:ab12","Arch":"amd64","Kernel":"","RootfsPath":"/state/images/00112233aabbccdd/rootfs.ext4","SizeBytes":4096,"Config":{"Env":["A=b"],"User":"u","WorkDir":"/w","Entrypoint":["/e"],"Cmd":["c"],"ExposedPorts":["80/tcp"],"Arch":"amd64","OS":"linux"},"Layers":[{"MediaType":"application/vnd.oci.image.layer.v1.tar","Digest":"sha256:cd34","Size":9}],"CreatedAt":"2026-01-02T03:04:05.000000006Z"}',
	'2026-01-02T03:04:05.000000006Z');
INSERT INTO vms VALUES ('0a1b2c3d4e5f', 'web', '00112233aabbccdd', 'running', '',
	'{"ID":"0a1b2c3d4e5f","Name":"web","State":"running","Op":"","ImageID":"00112233aabbccdd","Image":"debian-12","Kernel":"banger","CPUs":2,"MemoryBytes":2147483648,"DiskBytes":21474836480,"RM":true,"Driver":"auto","LastDriver":"qemu","MachineID":"0123456789abcdef0123456789abcdef","CreatedAt":"2026-01-02T03:04:06Z","StartedAt":"2026-01-02T03:04:07Z","Run":3,"Error":"e"}',
	'2026-01-02T03:04:06Z');
