-- Prefect and MLflow both keep their version in a table of the same name, so each has a database;
-- that of Prefect is the image's POSTGRES_DB.
CREATE DATABASE mlflow;
